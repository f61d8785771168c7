"""When the process is to end: no new archive, and none under way after a deadline."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


class Draining(Exception):  # noqa: N818 - not an error
    """The process was asked to stop and its time to finish is over."""


@dataclass(slots=True)
class Stop:
    """Set by SIGTERM: no new archive from now on, and none under way after ``deadline``."""

    requested: threading.Event = field(default_factory=threading.Event)
    deadline: float = float("inf")

    def request(self, grace_seconds: float) -> None:
        """Stop within ``grace_seconds``."""
        self.deadline = min(self.deadline, time.monotonic() + grace_seconds)
        self.requested.set()

    def check(self) -> None:
        """Raise Draining when the time is over."""
        if self.requested.is_set() and time.monotonic() > self.deadline:
            raise Draining
