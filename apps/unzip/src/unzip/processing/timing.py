"""How long an archive may take, and how long each phase took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from unzip.refusals import Reason, Refused


class Deadline:
    """How long an archive may take to be verified. What is verified is published in any case."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def check(self) -> None:
        """Raise Refused when the time is over."""
        if time.monotonic() > self._until:
            raise Refused(Reason.TOO_SLOW, f"over {self._seconds:.0f} seconds")

    def lift(self) -> None:
        """From now on there is none."""
        self._until = float("inf")


@dataclass(slots=True)
class Clock:
    """Seconds by phase, for manifest and metrics."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        """The time since the last lap was spent on ``name``."""
        at = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + at - self._since
        self._since = at
