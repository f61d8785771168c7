"""The service put together: what `run` and `watch` share."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kit.memory.cgroup import memory_limit
from kit.telemetry import logs
from unzip.announce.outbox import Outbox, Target
from unzip.extract import memory
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.extract.source import SOURCE_TAG
from unzip.ledger.ledger import Ledger
from unzip.ledger.records import Archive, Outcome
from unzip.metrics import Metrics
from unzip.processing import archive_keys
from unzip.processing.stop import Stop
from unzip.processing.worker import Worker
from unzip.s3 import capabilities
from unzip.s3.errors import Missing
from unzip.s3.types import Head, Store
from unzip.settings import UnzipSettings

log = logs.get("unzip")


def options(settings: UnzipSettings, store: Store) -> Options:
    """How wide the extractor works: as set, but within the container's memory.

    TooLittleMemoryError where that is not enough for anything.
    """
    wished = Options(
        readers=settings.readers,
        writers=settings.writers,
        span_bytes=settings.span_bytes,
        part_bytes=settings.part_bytes,
        buffer_bytes=settings.buffer_bytes,
        keep_bytes=settings.keep_bytes,
        signing_block=settings.signing_block,
        name_charsets=tuple(filter(None, settings.name_charsets.split(","))),
        copies_rightly=capabilities.copies_rightly(store, settings.state_prefix),
    )
    fits = memory.fitted(wished, memory_limit())
    if replace(fits, directory_bytes=wished.directory_bytes) != wished:
        log.info(
            "narrowed to the memory limit",
            readers=fits.readers,
            buffer_bytes=fits.buffer_bytes,
            keep_bytes=fits.keep_bytes,
        )
    return fits


@dataclass(slots=True)
class Tally:
    """What one sweep did."""

    found: int = 0
    started: int = 0
    busy: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    undelivered: int = 0

    def log_fields(self) -> dict[str, Any]:
        """The counts by their names in the log."""
        fields = asdict(self)
        return {"found": fields.pop("found"), "taken": fields.pop("started"), **fields}

    def add(self, outcome: Outcome | None) -> None:
        """Count the end of one archive; None is one that somebody else has or that waits."""
        if outcome is None:
            self.busy += 1
        else:
            self.outcomes[outcome.state] = self.outcomes.get(outcome.state, 0) + 1


class Service:
    """Finds archives, has them processed, delivers announcements."""

    def __init__(
        self,
        settings: UnzipSettings,
        store: Store,
        extractor: Extractor,
        targets: list[Target],
        *,
        metrics: Metrics,
        stop: Stop,
    ) -> None:
        self.settings = settings
        self.store = store
        self.stop = stop
        self.metrics = metrics
        owner = f"{settings.pod_name or 'local'}-{secrets.token_hex(4)}"
        self.ledger = Ledger(
            store, settings.state_prefix, owner=owner, lease_seconds=settings.lease_seconds
        )
        self.outbox = Outbox(
            self.ledger, targets, metrics=metrics, give_up_seconds=settings.notify_give_up_seconds
        )
        self._tells = bool(targets)
        self._telling = threading.Lock()
        self.worker = Worker(
            settings,
            store=store,
            ledger=self.ledger,
            outbox=self.outbox,
            extractor=extractor,
            metrics=metrics,
            stop=stop,
        )

    def process(self, archive: Archive) -> Outcome | None:
        """One archive to its end, and its announcement if that goes through immediately.

        None, with a line in the log, where S3 or the ledger's record of it cannot be read: the
        other archives are not to wait for this one.
        """
        try:
            outcome = self.worker.process(archive)
        except Exception as error:
            log.exception("archive failed", key=archive.key, error=str(error)[:500])
            return None
        if outcome is not None and self._tells:
            with self._telling:
                self.outbox.deliver_one(outcome.event_id)
        return outcome

    def process_key(self, key: str) -> Outcome | None:
        """The archive that is at ``key`` now, unless it is closed or not there."""
        archive = self._archive(key)
        if archive is None or self.ledger.is_closed(archive):
            return None
        return self.process(archive)

    def _archive(self, key: str) -> Archive | None:
        """The archive that is at ``key`` now; None if nothing is, or what we put there."""
        try:
            head = self.store.head(key)
        except Missing:
            return None
        if self._is_output(key, head):
            return None
        return Archive(self.settings.bucket, key, head.etag, head.size)

    def _is_output(self, key: str, head: Head | None = None) -> bool:
        """Whether ``key`` is a file of an archive: a nested zip is extracted by nobody."""
        holders = list(archive_keys.holders(key, self.settings.suffix))
        if not holders:
            return False
        try:
            if SOURCE_TAG in (head or self.store.head(key)).metadata:
                return True
        except Missing:
            return True
        return any(self._is_there(holder) for holder in holders if self.wanted(holder))

    def _is_there(self, key: str) -> bool:
        try:
            self.store.head(key)
        except Missing:
            return False
        return True

    def close_key(self, key: str) -> bool:
        """Process what is at ``key`` now; whether nothing of it is left to do."""
        return self.process_key(key) is not None or self.is_closed(key)

    def close_keys(self, keys: Iterable[str]) -> bool:
        """Process those that are archives; whether nothing is left to do. Failures are logged."""
        wanted = [key for key in keys if self.wanted(key)]
        try:
            verdicts = [self.close_key(key) for key in wanted]
        except Exception as error:
            log.error("message failed", keys=wanted, error=str(error))
            return False
        return all(verdicts)

    def is_closed(self, key: str) -> bool:
        """Whether the archive that is at ``key`` now, if any, needs no more attention."""
        archive = self._archive(key)
        return archive is None or self.ledger.is_closed(archive)

    def wanted(self, key: str) -> bool:
        """Whether a key is an archive's by prefix and suffix."""
        settings = self.settings
        return (
            key.startswith(settings.prefix)
            and key.endswith(settings.suffix)
            and key != settings.suffix
            and not key.startswith(settings.state_prefix)
        )

    def waiting(self, tally: Tally) -> Iterator[Archive]:
        """Archives that are not closed, in the order of their keys."""
        closed = set(self.ledger.ids("closed"))
        records = Counter(identity.partition("-")[0] for identity in closed)
        opened = set(self.ledger.ids("open"))
        oldest = 0.0
        try:
            for entry in archive_keys.archives(
                self.store,
                prefix=self.settings.prefix,
                suffix=self.settings.suffix,
                state_prefix=self.settings.state_prefix,
            ):
                tally.found += 1
                archive = Archive(self.settings.bucket, entry.key, entry.etag, entry.size)
                # Of two records one is about to go; the ledger knows which, when it is asked.
                settled = archive.id in closed and records[archive.key_id] == 1
                if settled and archive.key_id not in opened:
                    continue
                if self._is_output(entry.key):
                    continue
                oldest = max(oldest, (datetime.now(UTC) - entry.modified).total_seconds())
                yield archive
        finally:
            self.metrics.oldest.set(oldest)

    def abandoned(self) -> Iterator[Archive]:
        """Archives that were claimed and are not there any more: what they left must go."""
        for identity in list(self.ledger.ids("open")):
            try:
                archive = self.ledger.claimed(identity)
                if self.wanted(archive.key) and not self._is_there(archive.key):
                    yield archive
            except Missing:
                continue
            except Exception as error:
                log.error("claim not readable", claim=identity, error=str(error)[:500])

    def sweep(self) -> Tally:
        """Process everything that waits, within the run's limits, and tell what is untold."""
        until = time.monotonic() + self.settings.run_seconds
        tally = Tally()
        with ThreadPoolExecutor(self.settings.archives_at_once, "archive") as pool:
            under_way: set[Future[Outcome | None]] = set()
            try:
                for archive in self.waiting(tally):
                    while len(under_way) >= self.settings.archives_at_once:
                        self._collect(under_way, tally)
                    if self.stop.requested.is_set():
                        break
                    if time.monotonic() > until or tally.started >= self.settings.run_archives:
                        continue  # the rest is only looked at, for the age of the oldest
                    tally.started += 1
                    under_way.add(pool.submit(self.process, archive))
            finally:
                while under_way:
                    self._collect(under_way, tally)
        for archive in self.abandoned():
            if self.stop.requested.is_set():
                break
            tally.add(self.process(archive))
        if self._tells and not self.stop.requested.is_set():
            with self._telling:
                tally.undelivered = self.outbox.deliver()
        return tally

    @staticmethod
    def _collect(under_way: set[Future[Outcome | None]], tally: Tally) -> None:
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        under_way -= done
        for future in done:
            tally.add(future.result())


@contextmanager
def targets(settings: UnzipSettings) -> Iterator[list[Target]]:
    """Who receives announcements, by the settings, with the connections for it."""
    slack_url = settings.slack_webhook_url.get_secret_value()
    if not (settings.backend_url or slack_url):
        yield []
        return
    # A run that tells nobody need not pay for the HTTP client's import.
    import httpx  # noqa: PLC0415

    from unzip.announce.targets import Backend, Slack  # noqa: PLC0415

    found: list[Target] = []
    timeout = httpx.Timeout(settings.notify_timeout_seconds)
    with httpx.Client(timeout=timeout, follow_redirects=False) as client:
        if settings.backend_url:
            secret = settings.backend_secret.get_secret_value()
            found.append(Backend(client, settings.backend_url, secret=secret))
        if slack_url:
            spacing = settings.slack_seconds
            found.append(Slack(client, slack_url, settings.slack_template, spacing_seconds=spacing))
        yield found


@contextmanager
def assembled(
    settings: UnzipSettings, store: Store, stop: Stop, metrics: Metrics
) -> Iterator[Service]:
    """The service, its threads and connections, for as long as the block runs."""
    with targets(settings) as receivers, Extractor(options(settings, store)) as extractor:
        yield Service(settings, store, extractor, receivers, metrics=metrics, stop=stop)
