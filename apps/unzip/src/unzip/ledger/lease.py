"""A claim that is ours for now, and the heartbeat that keeps it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any, Protocol, Self

from unzip.ledger.number_set import NumberSet
from unzip.ledger.records import Archive, Claim, Record
from unzip.s3.errors import Conflict, Missing, Transient
from unzip.s3.types import Document


class LeaseLost(Exception):  # noqa: N818 - a fact, and nobody's error
    """Somebody else owns the archive now; what is under way must stop."""


class ClaimRecords(Protocol):
    """Where claims are kept: the ledger."""

    def read_claim(self, archive: Archive) -> Document: ...
    def replace_claim(self, claim: Claim, etag: str) -> str: ...
    def delete_claim(self, archive: Archive, etag: str) -> None: ...


class Lease:
    """A claim that is ours for now.

    ``check`` is cheap and local: it raises once our own clock says that others may own the
    archive. ``renew`` asks the ledger, and is what must come before a step that cannot be undone.
    """

    def __init__(self, records: ClaimRecords, claim: Claim, etag: str, sent_at: float) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._etag = etag
        self.claim = claim
        self.done = NumberSet(claim.done)
        self.older: list[Record] = []  # of other versions of the archive
        self._deadline = 0.0
        self._lost = ""
        self._extend(sent_at)

    def _extend(self, sent_at: float) -> None:
        lease = self.claim.lease_seconds
        # Last-Modified and Date count full seconds, so a claim may look a second too old.
        self._deadline = sent_at + lease - min(2.0, lease / 2)

    def check(self) -> None:
        """Raise LeaseLost if the lease may no longer be ours."""
        if self._lost or time.monotonic() > self._deadline:
            raise LeaseLost(self._lost or f"no heartbeat for {self.claim.lease_seconds} s")

    def renew(self, **changes: Any) -> None:
        """Prolong the lease, recording progress and ``changes``; LeaseLost if it is not ours."""
        with self._lock:
            if self._lost:
                raise LeaseLost(self._lost)
            claim = replace(self.claim, done=tuple(self.done.ranges()), **changes)
            sent_at = time.monotonic()
            try:
                self._etag = self._records.replace_claim(claim, self._etag)
            except (Conflict, Missing) as error:
                self._confirm(claim, error)
            self.claim = claim
            self._extend(sent_at)

    def _confirm(self, claim: Claim, error: Exception) -> None:
        """A retried write answers Conflict when its first answer was lost: look before we leap."""
        try:
            document = self._records.read_claim(claim.archive)
        except Missing:
            self._lost = "the claim is gone"
            raise LeaseLost(self._lost) from error
        if document.body != claim.to_json():
            self._lost = "somebody else owns the archive now"
            raise LeaseLost(self._lost) from error
        self._etag = document.etag

    def release(self, error: str = "", *, counts: bool = False) -> None:
        """Give the archive back with its progress, for anyone to claim immediately.

        ``counts`` makes it one of the attempts after which the archive is given up.
        """
        self.renew(released=True, **{"error" if counts else "last_error": error[:500]})

    def drop(self) -> None:
        """Delete the claim, if it is still ours."""
        with self._lock:
            self._records.delete_claim(self.claim.archive, self._etag)
            self._lost = "closed"


class Heartbeat:
    """Renews a lease in the background while a ``with`` block runs."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Whether it was stopped within that time."""
        return self.stopped.wait(seconds)

    def _beat(self) -> None:
        while not self.wait(self._lease.claim.lease_seconds / 3):
            try:
                self._lease.renew()
            except LeaseLost:
                return  # `check` tells the workers
            except Transient:
                continue  # the deadline decides, not one failed request
            except Exception:
                return
