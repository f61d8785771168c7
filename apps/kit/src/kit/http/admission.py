"""How many requests may be open at a time, so that none waits longer than its target.

A fixed count is 40 ms of waiting for one model and 270 ms for another. Here the limit follows
the wait that is measured: while the limit is felt it moves by the ratio of the target to that
wait, which is the measured throughput times the target (Little's law). The wait is the shortest
of a window, as in CoDel (RFC 8289): where requests queue all the time it is as long as the others,
and a stall of the machine, which makes some of them wait long, does not count. Netflix's
concurrency-limits and Envoy's adaptive concurrency move theirs by such a gradient too; they
compare with the shortest latency seen, which would have to be probed for, where this compares
with a target that the operator set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

AIM = 0.75
"""Share of the target that the shortest wait is held at, so that the longest stay within it."""
WINDOW = 0.1
"""Seconds of samples that one step of the limit follows from."""
FELT = 0.8
"""Share of the limit from which it counts as reached."""
SMALLEST_STEP, LARGEST_STEP = 0.5, 1.25


class Admission:
    """A count of open requests and the limit of it. Use it from one thread only."""

    __slots__ = (
        "_ceiling", "_clock", "_exact", "_floor", "_most_open", "_shortest_wait",
        "_window_began", "limit", "open", "target",
    )  # fmt: skip

    def __init__(
        self,
        *,
        target: float,
        floor: int,
        ceiling: int,
        start: int = 512,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``target`` is the longest wait in seconds, the others are numbers of requests."""
        self.target = target
        self.open = 0
        self.limit = 0
        """The most requests that may be open now."""
        self._exact = float(start)
        self.bound(floor, ceiling)
        self._clock = clock
        self._window_began = clock()
        self._most_open = 0
        self._shortest_wait = math.inf

    def bound(self, floor: int, ceiling: int) -> None:
        """Keep the limit between these from now on."""
        self._floor = floor
        self._ceiling = max(floor, ceiling)
        self._settle()

    def _settle(self) -> None:
        self.limit = max(self._floor, min(self._ceiling, math.floor(self._exact)))

    @property
    def full(self) -> bool:
        """Whether another request would wait too long."""
        return self.open >= self.limit

    def enter(self) -> None:
        """One more request is open."""
        self.opened(self.open + 1)

    def leave(self) -> None:
        """One request less is open."""
        self.open -= 1

    def opened(self, count: int) -> None:
        """So many requests are open, by the caller's own count."""
        self.open = count
        self._most_open = max(self._most_open, count)

    def waited(self, seconds: float) -> None:
        """A request that waited for so long begins to run."""
        self._shortest_wait = min(self._shortest_wait, seconds)
        now = self._clock()
        if now - self._window_began >= WINDOW:
            self._move()
            self._window_began = now
            self._most_open = self.open
            self._shortest_wait = math.inf

    def _move(self) -> None:
        wait = self._shortest_wait
        aim = self.target * AIM
        limit = float(self.limit)
        if wait > aim:
            # what was open is what made them wait, and may have been less than the limit
            limit = min(limit, float(max(self._most_open, self._floor)))
        elif self._most_open < limit * FELT:
            return
        step = aim / wait if wait > 0 else LARGEST_STEP
        self._exact = limit * min(LARGEST_STEP, max(SMALLEST_STEP, step))
        self._exact = min(float(self._ceiling), max(float(self._floor), self._exact))
        self._settle()
