"""Holds: who said that an environment, or some of its releases, must not change, and until when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from release.errors import BadValuesError, HeldError
from release.values import scalars
from release.values.tree import Snapshot, hold_file

EVERY = "*"
_HEADER = "# Written by `release`; do not edit. `release unhold` ends a hold.\n"
_KEYS = ("services", "reason", "owner", "since", "until", "operation")


@dataclass(frozen=True)
class Hold:
    """One hold. ``services`` are release names or ``("*",)``; times are UTC."""

    services: tuple[str, ...]
    reason: str
    owner: str
    since: datetime
    until: datetime | None = None
    operation: str = "hold"
    """``rollback`` when a rollback set it, else ``hold``."""

    def covers(self, release: str, now: datetime) -> bool:
        """Whether it forbids changing this release now."""
        return self.active(now) and (EVERY in self.services or release in self.services)

    def active(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.until is None or now < self.until

    def __str__(self) -> str:
        what = "everything" if EVERY in self.services else ", ".join(self.services)
        until = f" until {_written(self.until)}" if self.until else ""
        return f"{what} held by {self.owner}{until}: {self.reason}"


def read(tree: Snapshot, environment: str) -> list[Hold]:
    """An environment's holds, expired ones included.

    Raises BadValuesError when the file is not as `release` writes it: a hold that cannot be
    read must not count as none.
    """
    path = hold_file(environment)
    data = tree.read(path)
    if data is None:
        return []
    try:
        content = scalars.load(data, path)
        return [
            Hold(
                services=tuple(str(service) for service in entry["services"]),
                reason=str(entry["reason"]),
                owner=str(entry["owner"]),
                since=_time(entry["since"]),
                until=_time(entry["until"]) if entry["until"] else None,
                operation=str(entry["operation"]),
            )
            for entry in content["holds"]
        ]
    except (BadValuesError, KeyError, TypeError, ValueError) as error:
        why = error.message if isinstance(error, BadValuesError) else repr(error)
        raise BadValuesError(
            f"{path} cannot be read ({why}).",
            fix=f"restore it from Git, or `release unhold --env {environment}` ends all its holds",
        ) from error


def write(holds: Sequence[Hold]) -> bytes | None:
    """The file's bytes; None, no file, for no holds."""
    if not holds:
        return None
    lines = [_HEADER, "holds:\n"]
    for hold in holds:
        values = (
            list(hold.services),
            hold.reason,
            hold.owner,
            _written(hold.since),
            _written(hold.until) if hold.until else "",
            hold.operation,
        )
        for index, (key, value) in enumerate(zip(_KEYS, values, strict=True)):
            mark = "-" if index == 0 else " "
            lines.append(f"  {mark} {key}: {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines).encode()


def covering(holds: Iterable[Hold], release: str, now: datetime) -> Hold | None:
    """The first hold that forbids changing a release now."""
    return next((hold for hold in holds if hold.covers(release, now)), None)


def refuse(environment: str, release: str, hold: Hold) -> HeldError:
    """The error for a change that a hold forbids."""
    return HeldError(
        f"{environment} is on hold ({release}): {hold}.",
        fix=f'`release unhold --env {environment}` when "{hold.reason}" is settled',
    )


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: object) -> datetime:
    """A time as `release` writes it; YAML may have read it as a datetime already."""
    parsed = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
