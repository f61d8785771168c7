"""When promotion into an environment is allowed: `values/promotion.yaml`.

stage: {}
prod:
  from: [stage]
  soak: 30m
  windows:
    - {days: [mon, tue, wed, thu], from: "09:00", to: "16:00", timeZone: Asia/Seoul}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from release.errors import BadValuesError
from release.values import locations, scalars, tree
from release.values.locations import Place
from release.values.tree import Snapshot

PATH = "values/promotion.yaml"
_FIX = "see docs/release.md, Promotion rules"
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: Any) -> timedelta:
    """``90s``, ``30m``, ``2h`` or ``1d`` as a time span."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"(\d+)([smhd])", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a duration like 90s, 30m, 2h or 1d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _zone(text: Any) -> ZoneInfo:
    try:
        return ZoneInfo(str(text))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"{text!r} is not a time zone like Asia/Seoul") from error


def _clock(text: Any) -> time:
    if not re.fullmatch(r"\d\d:\d\d", str(text)):
        raise ValueError(f'{text!r} is not a time of day like "09:00" (in quotes)')
    return time.fromisoformat(str(text))


class Window(BaseModel):
    """Hours of some days in which promotion is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    days: Sequence[Day] = _DAYS
    start: Annotated[time, BeforeValidator(_clock), Field(alias="from")] = time(0)
    end: Annotated[time, BeforeValidator(_clock), Field(alias="to")] = time(0)
    zone: Annotated[ZoneInfo, BeforeValidator(_zone), Field(alias="timeZone")] = ZoneInfo("UTC")

    def contains(self, now: datetime) -> bool:
        """Whether a moment is inside; one that ends before it starts runs past midnight."""
        local = now.astimezone(self.zone)
        clock, today = local.time(), _DAYS[local.weekday()]
        if self.start == self.end:
            return today in self.days
        if self.start < self.end:
            return today in self.days and self.start <= clock < self.end
        yesterday = _DAYS[local.weekday() - 1]
        return (today in self.days and clock >= self.start) or (
            yesterday in self.days and clock < self.end
        )

    def __str__(self) -> str:
        return f"{','.join(self.days)} {self.start:%H:%M}-{self.end:%H:%M} {self.zone.key}"


class Rules(BaseModel):
    """The rules of one environment; without any, promotion is always allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    sources: Annotated[Sequence[str], Field(alias="from")] = ()
    soak: Annotated[timedelta, BeforeValidator(duration)] = timedelta(0)
    windows: Sequence[Window] = ()

    def open(self, now: datetime) -> bool:
        """Whether the calendar allows a promotion now."""
        return not self.windows or any(window.contains(now) for window in self.windows)


@dataclass(frozen=True)
class Problem:
    """Something wrong with the file: the line (0 for none to name), which key, what, the fix."""

    line: int
    key: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{Place(PATH, self.line)}: {self.key}: {self.message}"


def read(files: Snapshot, environment: str) -> Rules:
    """The rules of promotion into an environment.

    Raises BadValuesError naming line and key when the file is not as above, or has rules for an
    environment that nobody deploys: they may be meant for this one.
    """
    content, text = _content(files)
    unknown = list(_unknown(files, content, text))
    rules, wrong = _rules(content, text, environment)
    for problem in (*unknown, *wrong):
        raise BadValuesError(f"{problem}.", fix=problem.fix)
    return rules


def problems(files: Snapshot) -> Iterator[Problem]:
    """Everything that is wrong with the file."""
    try:
        content, text = _content(files)
    except BadValuesError as error:
        yield Problem(0, "", error.message.rstrip("."), error.fix)
        return
    yield from _unknown(files, content, text)
    known = tree.environments(files)
    sources: dict[str, Sequence[str]] = {}
    for environment in known:
        rules, wrong = _rules(content, text, environment)
        yield from wrong
        sources[environment] = rules.sources
        for source in rules.sources:
            if source not in known:
                path = (environment, "from")
                yield _unknown_name(source, known, path, locations.line_of(text, path))
    yield from _circles(sources, text)


def _circles(sources: Mapping[str, Sequence[str]], text: str) -> Iterator[Problem]:
    """Environments that are each promoted from the next: nothing new ever enters them."""
    reported: set[str] = set()
    for start in sorted(sources):
        path = [start]
        # An environment with a source outside of the circle can be promoted into.
        while path[-1] not in path[:-1] and len(sources.get(path[-1], ())) == 1:
            path.append(sources[path[-1]][0])
        if path[-1] != start or len(path) == 1 or start in reported:
            continue
        reported.update(path)
        line = locations.line_of(text, (start, "from")) or 0
        way = ", which is promoted from ".join(path[1:])
        yield Problem(
            line, f"{start}.from", f"{start} is promoted from {way}: no build ever gets into them",
            "take `from` out of the first one of them",
        )  # fmt: skip


def _content(files: Snapshot) -> tuple[dict[str, Any], str]:
    data = files.read(PATH)
    if data is None:
        return {}, ""
    content = scalars.load(data, PATH)
    if not isinstance(content, dict):
        raise BadValuesError(f"{PATH} must map environments to their rules.", fix=_FIX)
    return content, data.decode(errors="replace")


def _unknown(files: Snapshot, content: Mapping[str, Any], text: str) -> Iterator[Problem]:
    known = tree.environments(files)
    for key in content:
        if key not in known:
            yield _unknown_name(str(key), known, (str(key),), locations.line_of(text, (str(key),)))


def _unknown_name(
    name: str, known: Sequence[str], path: Sequence[str], line: int | None
) -> Problem:
    near = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known) or '(none)'}"
    return Problem(line or 0, ".".join(path), f"nobody deploys the environment {name!r}", fix)


def _rules(content: Mapping[str, Any], text: str, environment: str) -> tuple[Rules, list[Problem]]:
    try:
        return Rules.model_validate(content.get(environment) or {}), []
    except ValidationError as error:
        wrong = []
        for one in error.errors():
            path = (environment, *map(str, one["loc"]))
            line = locations.line_of(text, path) or 0
            wrong.append(Problem(line, ".".join(path), str(one["msg"]), _FIX))
        return Rules(), wrong
