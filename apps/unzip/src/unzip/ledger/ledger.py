"""The ledger: which archive is whose, and what became of it, in S3 itself.

Layout below the state prefix, ``<key>`` being the hash of bucket and key, ``<id>`` that and the
hash of the ETag::

    open/<key>.json     claimed; its owner renews it, anyone may take it once it is stale
    closed/<id>.json    what became of the version that was closed last
    plan/<id>.json      the verified content types, so that a resumed job need not verify again

There is one claim per key, whatever the version: the worker of a replaced archive and that of
the new one write to the same place, and must not do so at the same time. Runs are counted per
key, too: when a version is closed the records of the others go, so one that comes back is new
work, with a run and so with an announcement of its own (docs/adr/0033).

Every write is conditional. A claim's age is the server's ``Date`` minus ``Last-Modified``, so
pods need not agree on the time. ``token`` grows with each change of owner (fencing).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from unzip.ledger.lease import Lease, LeaseLost
from unzip.ledger.records import Archive, Claim, Outcome, Record, State, now
from unzip.s3.errors import Conflict, Missing
from unzip.s3.types import Absent, Document, Matching, Store

_JSON = "application/json"


class Ledger:
    """The records of one state prefix."""

    def __init__(
        self, store: Store, prefix: str, *, owner: str, lease_seconds: float = 60.0
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.owner = owner
        self.lease_seconds = lease_seconds

    def open_key(self, archive: Archive) -> str:
        """Where an archive's claim is."""
        return f"{self.prefix}open/{archive.key_id}.json"

    def closed_key(self, archive: Archive) -> str:
        """Where an archive's outcome is."""
        return f"{self.prefix}closed/{archive.id}.json"

    def plan_key(self, archive: Archive) -> str:
        """Where a verified archive's content types are."""
        return f"{self.prefix}plan/{archive.id}.json"

    def ids(self, kind: str) -> Iterator[str]:
        """Ids of the records of a ``kind`` (open, closed) by listing alone."""
        folder = f"{self.prefix}{kind}/"
        for entry in self.store.entries(folder):
            yield entry.key.removeprefix(folder).removesuffix(".json")

    def claim(self, archive: Archive) -> Lease | None:
        """Take an archive that nobody has, or None: it is somebody's, or closed."""
        claim = Claim(
            archive,
            owner=self.owner,
            lease_seconds=self.lease_seconds,
            claimed_at=now(),
        )
        key = self.open_key(archive)
        sent_at = time.monotonic()
        try:
            etag = self._put(key, claim.to_json(), Absent())
        except Conflict:
            try:
                document = self.store.get(key)
            except Missing:
                return None  # closed between our two requests
            found = Claim.from_json(document.body)
            stale = document.age > found.lease_seconds
            if not (stale or found.released or document.body == claim.to_json()):
                return None
            claim = self._taken_over(found, archive, counts=stale or bool(found.error))
            sent_at = time.monotonic()
            try:
                etag = self._put(key, claim.to_json(), Matching(document.etag))
            except (Conflict, Missing):
                return None
            if found.archive.etag != archive.etag and found.verified:
                self.store.delete(self.plan_key(found.archive))
        lease = Lease(self, claim, etag, sent_at)
        history = self.history(archive)
        lease.older = [record for record in history if record.outcome.archive.id != archive.id]
        latest = history[-1].outcome if history else None
        if latest is not None and latest.run >= claim.run:
            if latest.archive.id == archive.id:
                # Its owner died while closing, or we listed too early.
                self._forget(lease)
                return None
            try:
                lease.renew(run=latest.run + 1)
            except LeaseLost:
                return None
        return lease

    def _taken_over(self, found: Claim, archive: Archive, *, counts: bool) -> Claim:
        """The next claim after ``found``: of the same version with its progress, or a new one."""
        if found.archive.etag != archive.etag:
            return Claim(
                archive,
                owner=self.owner,
                token=found.token + 1,
                lease_seconds=self.lease_seconds,
                claimed_at=now(),
            )
        return replace(
            found,
            owner=self.owner,
            token=found.token + 1,
            attempts=found.attempts + (1 if counts else 0),
            lease_seconds=self.lease_seconds,
            released=False,
            error="",
            last_error=found.error or found.last_error,
            claimed_at=now(),
        )

    def read_claim(self, archive: Archive) -> Document:
        """The object of an archive's claim, or Missing."""
        return self.store.get(self.open_key(archive))

    def replace_claim(self, claim: Claim, etag: str) -> str:
        """Overwrite our claim; Conflict if it is no longer ours."""
        return self._put(self.open_key(claim.archive), claim.to_json(), Matching(etag))

    def delete_claim(self, archive: Archive, etag: str) -> None:
        """Delete our claim; somebody else's stays."""
        try:
            self.store.delete(self.open_key(archive), etag)
        except Conflict:
            return

    def history(self, archive: Archive) -> list[Record]:
        """What became of the versions of an archive's key, the latest last."""
        found = []
        for entry in self.store.entries(f"{self.prefix}closed/{archive.key_id}-"):
            with suppress(Missing):
                document = self.store.get(entry.key)
                outcome = Outcome.from_json(document.body)
                found.append(Record(outcome, entry.key, document.etag))
        return sorted(found, key=lambda row: (row.outcome.run, row.outcome.finished_at))

    def outcome(self, archive: Archive) -> Outcome | None:
        """What became of an archive; None if no version of it, or another one, was closed last."""
        history = self.history(archive)
        latest = history[-1].outcome if history else None
        return latest if latest is not None and latest.archive.id == archive.id else None

    def is_closed(self, archive: Archive) -> bool:
        """Whether an archive needs no more attention."""
        outcome = self.outcome(archive)
        return outcome is not None and not self.is_open(archive.id, outcome.run + 1)

    def claimed(self, key_id: str) -> Archive:
        """The version of an archive that is claimed, or Missing."""
        return self._claim(key_id).archive

    def _claim(self, key_id: str) -> Claim:
        return Claim.from_json(self.store.get(f"{self.prefix}open/{key_id}.json").body)

    def is_open(self, identity: str, run: int) -> bool:
        """Whether a run of the archive with this id is claimed, or waits to be."""
        try:
            claim = self._claim(identity.partition("-")[0])
        except Missing:
            return False
        return (claim.archive.id, claim.run) == (identity, run)

    def close(self, lease: Lease, outcome: Outcome) -> Outcome:
        """Record what became of the archive and drop the claim; the record that counts."""
        lease.renew()
        key = self.closed_key(outcome.archive)
        try:
            self._put(key, outcome.to_json(), Absent())
        except Conflict:
            document = self.store.get(key)
            found = Outcome.from_json(document.body)
            if found.run >= outcome.run:
                outcome = found  # our own first answer was lost
            else:
                self._put(key, outcome.to_json(), Matching(document.etag))
        self._forget(lease)
        return outcome

    def abandon(self, lease: Lease) -> None:
        """Drop a claim without a record: this version is gone, and may come back."""
        lease.renew()
        self._drop(lease)

    def _forget(self, lease: Lease) -> None:
        for record in lease.older:
            with suppress(Conflict):  # a successor of ours has closed it anew
                self.store.delete(record.key, record.etag)
        self._drop(lease)

    def _drop(self, lease: Lease) -> None:
        if lease.claim.verified:
            self.store.delete(self.plan_key(lease.claim.archive))
        lease.drop()

    def reopen(self, outcome: Outcome) -> Claim:
        """Have a closed archive processed again, as the next run of it; what waits for a worker.

        Its record stays until that run is closed. Conflict if a worker has the archive.
        """
        key = self.open_key(outcome.archive)
        claim = Claim(
            outcome.archive,
            owner=self.owner,
            run=outcome.run + 1,
            attempts=0,
            released=True,
            republish=outcome.state is State.PUBLISHED,
            error="reopened",
            claimed_at=now(),
        )
        condition: Absent | Matching = Absent()
        for _ in range(3):
            with suppress(Conflict):
                self._put(key, claim.to_json(), condition)
                return claim
            try:
                document = self.store.get(key)
            except Missing:
                condition = Absent()
                continue
            found = Claim.from_json(document.body)
            if (found.archive.id, found.run) == (claim.archive.id, claim.run):
                return found  # somebody has reopened it before, or our first answer was lost
            if not found.released and document.age <= found.lease_seconds:
                break
            # Its worker died between closing and dropping it.
            claim = replace(claim, token=found.token + 1)
            condition = Matching(document.etag)
        raise Conflict(f"{outcome.archive.key} is under way: try again when it is closed")

    def save_plan(self, archive: Archive, types: list[str]) -> None:
        """Keep the verdict of the verification."""
        distinct = sorted(set(types))
        number = {name: index for index, name in enumerate(distinct)}
        body = json.dumps({"types": distinct, "members": [number[name] for name in types]})
        self._put(self.plan_key(archive), body.encode(), None)

    def plan(self, archive: Archive) -> list[str] | None:
        """The content types of a verified archive's members, or None."""
        try:
            document = json.loads(self.store.get(self.plan_key(archive)).body)
        except Missing:
            return None
        return [document["types"][number] for number in document["members"]]

    def _put(self, key: str, body: bytes, condition: Absent | Matching | None) -> str:
        return self.store.put(key, body, _JSON, {}, condition)
