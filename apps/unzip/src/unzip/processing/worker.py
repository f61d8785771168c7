"""Archives under the ledger: claimed, verified, published, announced; resumable anywhere.

Order of one archive's steps, each of which may be the last one before the power goes:
claim, verify, (plan,) unpublish the old version, files, manifest, leftovers, outbox, close.
A step that cannot be undone comes right behind a renewal of the lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from kit.telemetry import logs
from unzip.announce.outbox import Outbox
from unzip.extract.existing_files import find_earlier, remove_leftovers
from unzip.extract.extractor import Check, Extractor
from unzip.extract.manifest import encoded, manifest
from unzip.extract.manifest_upload import upload_manifest
from unzip.extract.publication import Publication
from unzip.extract.source import MANIFEST, SOURCE_TAG, Replaced, Source
from unzip.ledger.lease import Heartbeat, Lease, LeaseLost
from unzip.ledger.ledger import Ledger
from unzip.ledger.records import Archive, Outcome, State, now
from unzip.metrics import Metrics
from unzip.processing.archive_keys import result_prefix
from unzip.processing.stop import Draining, Stop
from unzip.processing.timing import Clock, Deadline
from unzip.refusals import Reason, Refused
from unzip.s3.errors import Missing, StoreError
from unzip.s3.types import Store
from unzip.settings import UnzipSettings
from unzip.zip.kinds import Kind
from unzip.zip.member import Directory

log = logs.get("unzip.worker")
_MOST_VERSIONS = 10  # one after the other, when an archive is replaced while it is read


def _last(error: str) -> str:
    return f", the last one by {error}" if error else ""


class Worker:
    """Processes archives of one bucket; safe to call from several threads."""

    def __init__(
        self,
        settings: UnzipSettings,
        *,
        store: Store,
        ledger: Ledger,
        outbox: Outbox,
        extractor: Extractor,
        metrics: Metrics,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._outbox = outbox
        self._extractor = extractor
        self._metrics = metrics
        self._stop = stop

    def process(self, archive: Archive) -> Outcome | None:
        """Bring an archive to its end; None if it is somebody else's, or was given back.

        A replacement in mid-read closes this version and goes on with the new one.
        """
        for _ in range(_MOST_VERSIONS):
            lease = self._ledger.claim(archive)
            if lease is None:
                return None
            outcome = self._guarded(lease)
            if outcome is None or outcome.state is not State.SUPERSEDED:
                return outcome
            try:
                head = self._store.head(archive.key)
            except Missing:
                return outcome
            archive = Archive(archive.bucket, archive.key, head.etag, head.size)
        return None  # replaced faster than it can be read: the next run has it

    def _guarded(self, lease: Lease) -> Outcome | None:
        archive = lease.claim.archive
        bound = log.bind(
            key=archive.key, etag=archive.etag.strip('"'), attempt=lease.claim.attempts
        )
        bound.info("claimed", size=archive.size, token=lease.claim.token, done=len(lease.done))
        clock = Clock()
        try:
            with Heartbeat(lease):
                try:
                    if lease.claim.attempts > self._settings.max_attempts:
                        self._abort_orphans(lease, result_prefix(archive.key))
                        raise Refused(
                            Reason.TOO_MANY_ATTEMPTS,
                            f"given up after {lease.claim.attempts - 1} attempts"
                            f"{_last(lease.claim.last_error)}; "
                            f"`unzip retry {archive.key}` has it tried again",
                        )
                    outcome = self._extract(lease, clock)
                except Refused as error:
                    outcome = self._outcome(
                        lease,
                        State.FAILED if error.reason is Reason.TOO_MANY_ATTEMPTS else State.REFUSED,
                        clock,
                        reason=error.reason,
                        detail=error.detail,
                        member=error.member,
                    )
                except Replaced as error:
                    outcome = self._outcome(lease, State.SUPERSEDED, clock, detail=str(error))
                outcome = self._close(lease, outcome)
        except LeaseLost as error:
            bound.warning("lease lost", why=str(error))
            return None
        except Draining:
            bound.info("given back", done=len(lease.done))
            self._release(lease, "", counts=False)
            return None
        except StoreError as error:
            bound.error("storage failed", code=error.code, error=str(error)[:500])
            self._release(lease, str(error), counts=False)  # it is not the archive's fault
            return None
        except Exception as error:
            # A defect of ours must not stop the other archives; after some attempts this one
            # is recorded as failed, with what is kept here.
            bound.exception("defect")
            self._release(lease, repr(error), counts=True)
            return None
        self._count(outcome)
        bound.log(
            20 if outcome.state in (State.PUBLISHED, State.SUPERSEDED) else 30,
            str(outcome.state),
            reason=outcome.reason,
            detail=outcome.detail,
            member=outcome.member,
            members=outcome.members,
            bytes=outcome.total_bytes,
            skipped=outcome.skipped,
            seconds=outcome.seconds,
        )
        return outcome

    def _release(self, lease: Lease, error: str, *, counts: bool) -> None:
        try:
            lease.release(error, counts=counts)
        except (LeaseLost, StoreError):
            return  # it will be found stale

    def _close(self, lease: Lease, outcome: Outcome) -> Outcome:
        if outcome.state is State.SUPERSEDED:
            # No end of this version: the same bytes may come back, and are to be extracted then.
            self._outbox.withdraw(outcome.event_id)
            self._ledger.abandon(lease)
            return outcome
        lease.renew()
        self._outbox.write(outcome)
        return self._ledger.close(lease, outcome)

    def _outcome(self, lease: Lease, state: State, clock: Clock, **fields: Any) -> Outcome:
        claim = lease.claim
        return Outcome(
            claim.archive,
            state,
            run=claim.run,
            attempts=claim.attempts,
            seconds={name: round(value, 3) for name, value in clock.seconds.items()},
            finished_at=now(),
            **fields,
        )

    def _extract(self, lease: Lease, clock: Clock) -> Outcome:
        archive = lease.claim.archive
        deadline = Deadline(self._settings.max_archive_seconds)

        def check() -> None:
            lease.check()
            self._stop.check()
            deadline.check()

        prefix = result_prefix(archive.key)
        source = Source(self._store, archive.key, archive.etag, archive.size)
        limits = self._settings.limits(key_bytes=len(prefix.encode()))
        self._abort_orphans(lease, prefix)
        with self._extractor.directory(source, limits) as directory:
            clock.lap("directory")
            return self._extract_members(
                lease, source, directory, check=check, deadline=deadline, clock=clock
            )

    def _extract_members(
        self,
        lease: Lease,
        source: Source,
        directory: Directory,
        *,
        check: Check,
        deadline: Deadline,
        clock: Clock,
    ) -> Outcome:
        archive = lease.claim.archive
        prefix = result_prefix(archive.key)
        if directory.charset is not None and not directory.charset.sure:
            log.warning(
                "charset of names guessed",
                key=archive.key,
                charset=directory.charset.charset,
                others=directory.charset.others,
            )
        types = self._ledger.plan(archive) if lease.claim.verified else None
        with Publication(
            self._extractor,
            source,
            directory.members,
            self._store,
            prefix,
            check=check,
            done=lease.done,
        ) as publication:
            if types is None or len(types) != len(directory.members):
                types = self._extractor.verify(
                    source, directory.members, check=check, take=publication.take
                )
                clock.lap("verify")
                if lease.claim.verified or clock.seconds["verify"] > lease.claim.lease_seconds / 3:
                    self._keep_plan(lease, types)
            deadline.lift()
            self._metrics.bytes.labels("read").inc(archive.size)
            self._publish(lease, source, directory, types, publication, clock=clock)
        files = [member for member in directory.members if member.kind is Kind.FILE]
        return self._outcome(
            lease,
            State.PUBLISHED,
            clock,
            members=len(files),
            total_bytes=sum(member.size for member in files),
            skipped=sum(
                member.kind in (Kind.SYMBOLIC_LINK, Kind.DEVICE) for member in directory.members
            ),
        )

    def _publish(
        self,
        lease: Lease,
        source: Source,
        directory: Directory,
        types: list[str],
        publication: Publication,
        *,
        clock: Clock,
    ) -> None:
        prefix = result_prefix(source.key)
        manifest_key = prefix + MANIFEST
        earlier = find_earlier(self._store, prefix, directory.members)
        published = (
            bool(earlier.manifest)
            and not lease.claim.republish
            and self._is_published(manifest_key, source)
        )
        if not published:
            lease.renew()
            if earlier.manifest:
                # From here on the files are of two versions: nothing is published.
                self._store.delete(manifest_key, earlier.manifest)
            publication.publish(
                types,
                fenced=lease.renew,
                existing=earlier.members,
                published=self._progress(lease, types),
            )
            clock.lap("publish")
            if any(
                member.size > self._extractor.options.part_bytes for member in directory.members
            ):
                # An upload whose first answer was lost was begun twice.
                self._abort_orphans(lease, prefix)
            document = manifest(
                bucket=lease.claim.archive.bucket,
                key=source.key,
                etag=source.etag,
                size=source.size,
                directory=directory,
                types=types,
                seconds=clock.seconds,
            )
            lease.renew()
            upload_manifest(self._store, prefix, encoded(document), source.tag, fenced=lease.renew)
            if lease.claim.republish:
                lease.renew(republish=False)
        if earlier.others:
            remove_leftovers(
                self._store,
                prefix,
                directory.members,
                source.tag,
                extractor=self._extractor,
                renew=lease.renew,
            )

    def _is_published(self, key: str, source: Source) -> bool:
        try:
            return self._store.head(key).metadata.get(SOURCE_TAG) == source.tag
        except Missing:
            return False

    def _progress(self, lease: Lease, types: list[str]) -> Callable[[int], None]:
        """What to call for each uploaded member: now and then the ledger learns of it."""
        every = self._settings.checkpoint_members
        lock = threading.Lock()
        seen = 0
        saved = lease.claim.verified

        def published(index: int) -> None:
            nonlocal seen, saved
            lease.done.add(index)
            with lock:
                seen += 1
                due = seen % every == 0
                if due and not saved:
                    self._keep_plan(lease, types)
                    saved = True
                elif due:
                    lease.renew()

        return published

    def _keep_plan(self, lease: Lease, types: list[str]) -> None:
        """Spare whoever resumes a second verification.

        The claim says first that there is a plan to drop.
        """
        lease.renew(verified=True)
        self._ledger.save_plan(lease.claim.archive, types)

    def _abort_orphans(self, lease: Lease, prefix: str) -> None:
        """Drop what dead workers left under way; a live one that lost its lease is fenced so."""
        orphans = list(self._store.list_uploads(prefix))
        if orphans:
            lease.renew()
        for upload in orphans:
            self._store.abort_upload(upload.key, upload.id)

    def _count(self, outcome: Outcome) -> None:
        self._metrics.archives.labels(outcome.state).inc()
        if outcome.reason:
            self._metrics.refusals.labels(outcome.reason).inc()
        self._metrics.members.inc(outcome.members)
        self._metrics.bytes.labels("published").inc(outcome.total_bytes)
        for phase, seconds in outcome.seconds.items():
            self._metrics.seconds.labels(phase).observe(seconds)
