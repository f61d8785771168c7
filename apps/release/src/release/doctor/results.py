"""What a check found, and how many of each kind there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from release.errors import ReleaseError

State = Literal["ok", "fault", "unknown"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ``ok``, a ``fault``, or ``unknown`` where one could not look.

    ``found`` is what is there; ``fix`` is what a person does about it, empty where all is well.
    """

    area: str
    name: str
    state: State
    found: str
    fix: str = ""


def ok(area: str, name: str, found: str) -> Check:
    """A thing that is as it must be."""
    return Check(area, name, "ok", found)


def fault(area: str, name: str, found: str, fix: str) -> Check:
    """A thing that is not as it must be."""
    return Check(area, name, "fault", found, fix)


def unknown(area: str, name: str, found: str, fix: str) -> Check:
    """A thing that could not be looked at."""
    return Check(area, name, "unknown", found, fix)


def guarded(area: str, name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks of ``look``; where it is refused an answer, one that says so."""
    try:
        yield from look()
    except ReleaseError as error:
        yield unknown(area, name, error.message, error.fix or "run `release doctor` again")
