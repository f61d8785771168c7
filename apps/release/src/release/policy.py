"""When promotion into an environment is allowed: `values/promotion.yaml`.

stage: {}
prod:
  from: [stage]
  soak: 30m
  windows:
    - {days: [mon, tue, wed, thu], from: "09:00", to: "16:00", timeZone: Europe/Berlin}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from release import scalars
from release.errors import BadValuesError
from release.tree import Snapshot

PATH = "values/promotion.yaml"
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
        raise ValueError(f"{text!r} is not a time zone like Europe/Berlin") from error


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


def read(tree: Snapshot, environment: str) -> Rules:
    """The rules of promotion into an environment.

    Raises BadValuesError naming the key when the file is not as above.
    """
    data = tree.read(PATH)
    if data is None:
        return Rules()
    content = scalars.load(data, PATH)
    if not isinstance(content, dict):
        raise BadValuesError(f"{PATH} must map environments to their rules.")
    try:
        return Rules.model_validate(content.get(environment) or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (environment, *first["loc"]))
        raise BadValuesError(
            f"{PATH}: {key}: {first['msg']}.", fix="see docs/release.md, Promotion rules"
        ) from error
