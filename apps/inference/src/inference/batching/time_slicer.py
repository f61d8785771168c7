"""Keeps iterations of the event loop short, so that no request waits unseen in the sockets.

Left to itself the loop parses every request in the order it reads them: one that comes last of
three hundred has waited for all of them before anybody could refuse it, and so has a probe. Here
one iteration does a few milliseconds of such work and puts the rest into a queue that can be seen
and counted; reading, answering and refusing go on in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

SLICE = 0.005
"""Seconds of work after which the loop is given back, and a batch is run at the latest."""

WORK_PER_READING = 1
"""How many times as long as it has read an iteration may work, if there is as much to do.

Reading what has to be refused takes up to a third of the time at one and a half times the peak.
An iteration that may work much longer than it reads grows until every connection waits in it, and
refusals come after hundreds of milliseconds; storms of refused callers are bounded by their share
of the time (`kit.http.refusals`).
"""

OFF_LOOP = 256 * 1024
"""Bytes from which a body is parsed in a thread."""

P = ParamSpec("P")
T = TypeVar("T")

Work = Callable[[], None]


async def by_size(size: int, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What ``work`` on so many bytes gives: done here where they are few, else in a thread."""
    if size < OFF_LOOP:
        return work(*arguments, **named)
    return await asyncio.to_thread(work, *arguments, **named)


class TimeSlicer:
    """Runs work in the order it comes, a bounded time per iteration of the loop.

    Use it from the event loop only.

    An iteration works at least as long as it reads: left to read whatever is ready, a server with
    many connections answers a batch and reads a thousand requests it has no time for. Work must
    not raise.
    """

    def __init__(
        self,
        *,
        slice_seconds: float = SLICE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slice = slice_seconds
        self._clock = clock
        self._waiting: deque[Work] = deque()
        self._after: list[Work] = []
        self._began = 0.0
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, work: Work) -> None:
        """Run it when the loop has read what there was, after the work that came before."""
        self._waiting.append(work)
        if not self._scheduled:
            self._schedule()

    def run_after(self, work: Work) -> None:
        """Run it after a slice of what is waiting: a batch that gathers what a slice parses."""
        self._after.append(work)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self._began = self._clock()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        waiting = self._waiting
        now = self._clock()
        until = now + max(self._slice, WORK_PER_READING * (now - self._began))
        while True:
            pause = now + self._slice
            while waiting and now < pause:
                waiting.popleft()()
                now = self._clock()
            after, self._after = self._after, []
            for work in after:
                work()
            if not waiting and not self._after:
                self._scheduled = False
                return
            now = self._clock()
            if now >= until:
                break
        self._schedule()
