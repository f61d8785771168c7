"""One timer for everything that waits: deadlines and hang-ups without a timer for each.

A timer costs a request more than the look-ups of its headers do, and nearly all are cancelled.
So requests register in a set, and while it is not empty, one timer looks through it.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

TICK_SECONDS = 0.02


class Waiting(Protocol):
    """Something that wants to be looked at while it waits."""

    def tick(self, now: float) -> None:
        """Look at the clock (`time.monotonic`)."""
        ...


class SharedTimer:
    """Looks at everything registered every ``TICK_SECONDS``; does nothing while nothing is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: dict[int, Waiting] = {}
        self._ticking = False

    def add(self, waiting: Waiting) -> None:
        """Look at it from now on."""
        self._waiting[id(waiting)] = waiting
        if not self._ticking:
            self._ticking = True
            self.loop.call_later(TICK_SECONDS, self._tick)

    def remove(self, waiting: Waiting) -> None:
        """Look at it no more."""
        self._waiting.pop(id(waiting), None)

    def _tick(self) -> None:
        if not self._waiting:
            self._ticking = False
            return
        self.loop.call_later(TICK_SECONDS, self._tick)
        now = monotonic()
        for waiting in list(self._waiting.values()):
            waiting.tick(now)


_timers: dict[int, SharedTimer] = {}


def timer_of(loop: asyncio.AbstractEventLoop) -> SharedTimer:
    """The timer of a loop."""
    found = _timers.get(id(loop))
    if found is None or found.loop is not loop:
        found = _timers[id(loop)] = SharedTimer(loop)
    return found
