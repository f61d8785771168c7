"""Announcements: written before an archive is closed, delivered by whoever comes by.

Each is one object, ``outbox/<event id>.json``. It is claimed by a conditional write before
anything is sent, so two workers never send it at the same time. The backend gets an idempotency
key and is sent the same event again when a worker died in between; Slack has no such key, so a
message whose fate is unknown is not repeated (docs/unzip.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Protocol, Self

from kit.telemetry import logs
from unzip.ledger.ledger import Ledger
from unzip.ledger.records import Outcome
from unzip.metrics import Metrics
from unzip.s3.errors import Conflict, Missing
from unzip.s3.types import Absent, Document, Matching

log = logs.get("unzip.outbox")


class Result(StrEnum):
    """How far one target's delivery is."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    UNKNOWN = "unknown"
    GIVEN_UP = "given_up"


FINAL = (Result.DELIVERED, Result.UNKNOWN, Result.GIVEN_UP)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The state of one target. ``not_before`` is seconds since the epoch."""

    result: Result = Result.PENDING
    attempts: int = 0
    not_before: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One announcement and whom it is for; ``sender`` is who claimed it last."""

    event: dict[str, Any]
    targets: dict[str, Delivery]
    created: float
    sender: str = ""

    @property
    def id(self) -> str:
        """The event's id."""
        return str(self.event["id"])

    def to_json(self) -> bytes:
        """The object's body."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """The message in an object's body."""
        fields = json.loads(body)
        targets = {
            name: Delivery(**{**row, "result": Result(row["result"])})
            for name, row in fields["targets"].items()
        }
        return cls(fields["event"], targets, fields["created"], fields["sender"])


class Refusal(Exception):  # noqa: N818 - an answer
    """A target did not take a message; ``after`` seconds it may be tried again.

    ``unknown`` says that it may have accepted it all the same.
    """

    def __init__(self, message: str, *, after: float = 0.0, unknown: bool = False) -> None:
        super().__init__(message)
        self.after = after
        self.unknown = unknown


class Target(Protocol):
    """A receiver of announcements."""

    @property
    def name(self) -> str: ...
    @property
    def idempotent(self) -> bool: ...
    def send(self, event: dict[str, Any]) -> None: ...


def event_of(outcome: Outcome) -> dict[str, Any]:
    """The CloudEvent (1.0, structured JSON) that tells of an outcome."""
    archive = outcome.archive
    return {
        "specversion": "1.0",
        "id": outcome.event_id,
        "source": "/slipway/unzip",
        "type": f"slipway.archive.{outcome.state}",
        "subject": archive.key,
        "time": outcome.finished_at,
        "datacontenttype": "application/json",
        "data": {
            "bucket": archive.bucket,
            "key": archive.key,
            "etag": archive.etag.strip('"'),
            "size": archive.size,
            "outcome": str(outcome.state),
            "reason": outcome.reason,
            "detail": outcome.detail,
            "member": outcome.member,
            "members": outcome.members,
            "bytes": outcome.total_bytes,
            "skipped": outcome.skipped,
            "run": outcome.run,
        },
    }


class Outbox:
    """The messages of one ledger."""

    def __init__(
        self,
        ledger: Ledger,
        targets: Sequence[Target],
        *,
        metrics: Metrics,
        give_up_seconds: float = 7 * 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._targets = targets
        self._metrics = metrics
        self._give_up = give_up_seconds
        self._clock = clock
        self._down_until: dict[str, float] = {}

    def _key(self, identity: str) -> str:
        return f"{self._ledger.prefix}outbox/{identity}.json"

    def write(self, outcome: Outcome) -> None:
        """Keep the announcement of ``outcome``, before the archive is closed.

        It replaces that of a worker that came to another end and died before closing: nobody
        heard of it, because nothing is sent before.
        """
        if not self._targets:
            return
        message = Message(
            event_of(outcome),
            {target.name: Delivery() for target in self._targets},
            self._clock(),
        )
        try:
            self._put(message, Absent())
        except Conflict:
            with suppress(Missing):
                self._put(message, Matching(self._store.get(self._key(message.id)).etag))

    def withdraw(self, identity: str) -> None:
        """Drop the announcement of a run that is not closed after all."""
        if self._targets:
            self._store.delete(self._key(identity))

    def deliver(self) -> int:
        """Send what is due; the number of messages that are still undelivered."""
        waiting = 0
        for entry in self._store.entries(f"{self._ledger.prefix}outbox/"):
            waiting += not self._attempt(entry.key)
        self._metrics.outbox.set(waiting)
        return waiting

    def deliver_one(self, identity: str) -> None:
        """Send one message now, if it is there and due."""
        self._attempt(self._key(identity))

    def _attempt(self, key: str) -> bool:
        """Send one message; whether it needs no more attention. Its failures are its own."""
        try:
            document = self._store.get(key)
            return self._deliver(Message.from_json(document.body), document)
        except (Missing, Conflict):
            return True  # another worker has it
        except Exception as error:
            log.exception("announcement failed", message=key, error=str(error)[:500])
            return False

    def _deliver(self, message: Message, document: Document) -> bool:
        """Send one message to those who lack it; whether it needs no more attention."""
        identity, _, run = message.id.rpartition("-")
        if self._ledger.is_open(identity, int(run)):
            # A takeover may come to another end, or write once more what we had delivered.
            return False
        etag = document.etag
        for target in self._targets:
            delivery = message.targets.get(target.name, Delivery())
            due = max(delivery.not_before, self._down_until.get(target.name, 0.0))
            if delivery.result in FINAL or self._clock() < due:
                continue
            if delivery.result is Result.SENDING:
                if document.age <= self._ledger.lease_seconds:
                    continue
                if not target.idempotent:
                    message = self._with(message, target, replace(delivery, result=Result.UNKNOWN))
                    etag = self._put(message, Matching(etag))
                    continue
            delivery = replace(delivery, result=Result.SENDING, attempts=delivery.attempts + 1)
            message = self._with(message, target, delivery)
            etag = self._put(message, Matching(etag))
            delivery = self._send(target, message, delivery)
            self._metrics.deliveries.labels(target.name, delivery.result).inc()
            message = self._with(message, target, delivery)
            if self._is_done(message):
                break
            etag = self._put(message, Matching(etag))
        if not self._is_done(message):
            return all(delivery.result in FINAL for delivery in message.targets.values())
        self._store.delete(self._key(message.id), etag)
        return True

    def _is_done(self, message: Message) -> bool:
        """Whether the object can go; what was given up stays to be seen."""
        return all(
            delivery.result in (Result.DELIVERED, Result.UNKNOWN)
            for delivery in message.targets.values()
        )

    def _send(self, target: Target, message: Message, delivery: Delivery) -> Delivery:
        try:
            target.send(message.event)
        except Exception as caught:
            # A defect counts as a refusal: the other targets are not to suffer from it.
            error = caught if isinstance(caught, Refusal) else Refusal(repr(caught))
            log.warning(
                "not delivered", target=target.name, key=message.event["subject"], error=str(error)
            )
            if error.unknown and not target.idempotent:
                return replace(delivery, result=Result.UNKNOWN, error=str(error))
            wait = max(error.after, min(900.0, 5.0 * 2**delivery.attempts))
            # The next message would only wait for the same time-outs.
            self._down_until[target.name] = self._clock() + max(error.after, 5.0)
            if self._clock() + wait - message.created > self._give_up:
                return replace(delivery, result=Result.GIVEN_UP, error=str(error))
            return replace(
                delivery,
                result=Result.PENDING,
                not_before=self._clock() + wait,
                error=str(error),
            )
        return replace(delivery, result=Result.DELIVERED, error="")

    @staticmethod
    def _with(message: Message, target: Target, delivery: Delivery) -> Message:
        return replace(message, targets={**message.targets, target.name: delivery})

    def _put(self, message: Message, condition: Absent | Matching) -> str:
        key = self._key(message.id)
        body = replace(message, sender=self._ledger.owner).to_json()
        try:
            return self._store.put(key, body, "application/json", {}, condition)
        except Conflict:
            # Ours after all, when the answer to a first try was lost.
            document = self._store.get(key)
            if document.body != body:
                raise
            return document.etag
