"""The records of the ledger: an archive, who claims it, what became of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple, Self

_REPUBLISH = "afresh"  # its name in claims that are stored already


class State(StrEnum):
    """What became of an archive."""

    PUBLISHED = "published"
    REFUSED = "refused"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Archive:
    """One version of one archive; ``etag`` with its quotes, ``size`` in bytes."""

    bucket: str
    key: str
    etag: str
    size: int

    @property
    def id(self) -> str:
        """Key of the ledger: two archives never share one, a replaced archive has a new one."""
        return f"{self.key_id}-{sha256(self.etag.encode()).hexdigest()[:24]}"

    @property
    def key_id(self) -> str:
        """The same for all versions of the archive."""
        return key_hash(self.bucket, self.key)


def key_hash(bucket: str, key: str) -> str:
    """What the ids of all versions of an archive begin with."""
    return sha256(f"{bucket}\0{key}".encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Claim:
    """An ``open`` record. ``done`` holds ranges of members that are uploaded.

    ``republish``: what is published is to be published once more.
    """

    archive: Archive
    owner: str
    token: int = 1
    run: int = 1
    attempts: int = 1
    lease_seconds: float = 60.0
    released: bool = False
    verified: bool = False
    republish: bool = False
    done: tuple[tuple[int, int], ...] = ()
    error: str = ""
    last_error: str = ""
    claimed_at: str = ""

    def to_json(self) -> bytes:
        """The object's body."""
        fields = asdict(self)
        fields[_REPUBLISH] = fields.pop("republish")
        return json.dumps(fields, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """The record in an object's body."""
        fields: dict[str, Any] = json.loads(body)
        fields["archive"] = Archive(**fields["archive"])
        fields["republish"] = fields.pop(_REPUBLISH, False)
        fields["done"] = tuple((a, b) for a, b in fields["done"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A ``closed`` record."""

    archive: Archive
    state: State
    run: int = 1
    attempts: int = 1
    reason: str = ""
    detail: str = ""
    member: str = ""
    members: int = 0
    total_bytes: int = 0
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    finished_at: str = ""

    @property
    def event_id(self) -> str:
        """Identifies the announcement, and is its idempotency key."""
        return f"{self.archive.id}-{self.run}"

    def to_json(self) -> bytes:
        """The object's body."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """The record in an object's body."""
        fields: dict[str, Any] = json.loads(body)
        fields["archive"] = Archive(**fields["archive"])
        fields["state"] = State(fields["state"])
        return cls(**fields)


class Record(NamedTuple):
    """A ``closed`` object: what it says, where it is and its ETag."""

    outcome: Outcome
    key: str
    etag: str


def now() -> str:
    """The time for records, ISO 8601 in UTC; nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
