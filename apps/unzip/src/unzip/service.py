"""The service put together: what `run` and `watch` share."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kit import logs
from unzip import find, startup
from unzip.extract import Extractor, Options
from unzip.ledger import Archive, Ledger, Outcome
from unzip.metrics import Metrics
from unzip.outbox import Outbox, Target
from unzip.settings import UnzipSettings
from unzip.store import Missing, Store
from unzip.worker import Stop, Worker

log = logs.get("unzip")


def options(settings: UnzipSettings, store: Store) -> Options:
    """How wide the extractor works."""
    return Options(
        readers=settings.readers,
        writers=settings.writers,
        span_bytes=settings.span_bytes,
        part_bytes=settings.part_bytes,
        buffer_bytes=settings.buffer_bytes,
        keep_bytes=settings.keep_bytes,
        copies_rightly=startup.copies_rightly(store, settings.state_prefix),
    )


@dataclass(slots=True)
class Tally:
    """What one sweep did."""

    found: int = 0
    taken: int = 0
    busy: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    undelivered: int = 0

    def add(self, outcome: Outcome | None) -> None:
        """Count the end of one archive; None is one that somebody else has or that waits."""
        if outcome is None:
            self.busy += 1
        else:
            self.outcomes[outcome.state] = self.outcomes.get(outcome.state, 0) + 1


class Service:
    """Finds archives, has them processed, has people told."""

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
        """One archive to its end, and its announcement if that goes through at once."""
        outcome = self.worker.process(archive)
        if outcome is not None and self._tells:
            with self._telling:
                self.outbox.deliver_one(outcome.event_id)
        return outcome

    def process_key(self, key: str) -> Outcome | None:
        """The archive that is at ``key`` now, unless it is closed or not there."""
        try:
            head = self.store.head(key)
        except Missing:
            return None
        archive = Archive(self.settings.bucket, key, head.etag, head.size)
        if self.ledger.outcome(archive) is not None:
            return None
        return self.process(archive)

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
        try:
            head = self.store.head(key)
        except Missing:
            return True
        archive = Archive(self.settings.bucket, key, head.etag, head.size)
        return self.ledger.outcome(archive) is not None

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
        opened = set(self.ledger.ids("open"))
        oldest = 0.0
        for entry in find.archives(
            self.store,
            prefix=self.settings.prefix,
            suffix=self.settings.suffix,
            state_prefix=self.settings.state_prefix,
        ):
            tally.found += 1
            archive = Archive(self.settings.bucket, entry.key, entry.etag, entry.size)
            if archive.id in closed and archive.key_id not in opened:
                continue
            oldest = max(oldest, (datetime.now(UTC) - entry.modified).total_seconds())
            yield archive
        self.metrics.oldest.set(oldest)

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
                    if self.stop.requested.is_set() or time.monotonic() > until:
                        break
                    if tally.taken >= self.settings.run_archives:
                        break
                    tally.taken += 1
                    under_way.add(pool.submit(self.process, archive))
            finally:
                while under_way:
                    self._collect(under_way, tally)
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
    """Who is told, by the settings, with the connections for it."""
    slack_url = settings.slack_webhook_url.get_secret_value()
    if not (settings.backend_url or slack_url):
        yield []
        return
    # A run that tells nobody need not pay for the HTTP client's import.
    import httpx  # noqa: PLC0415

    from unzip.targets import Backend, Slack  # noqa: PLC0415

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
    with targets(settings) as told, Extractor(options(settings, store)) as extractor:
        yield Service(settings, store, extractor, told, metrics=metrics, stop=stop)
