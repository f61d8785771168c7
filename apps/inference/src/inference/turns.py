"""Keeps the turns of the event loop short, so that nobody's wait is hidden in the sockets.

Left to itself the loop parses every request in the order it reads them: one that comes last in
a turn of three hundred has waited for all of them before anybody could refuse it, and so has a
probe. Here a turn does a few milliseconds of such work and puts the rest into a queue that can
be seen and counted; reading, answering and refusing go on in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

SLICE = 0.005
"""Seconds of work after which the loop is given back."""

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


class Turns:
    """Runs work in the order it comes, for at most a slice per turn. Use it from the loop only.

    Work must not raise.
    """

    def __init__(self, *, slice_seconds: float = SLICE) -> None:
        self._slice = slice_seconds
        self._waiting: deque[Work] = deque()
        self._began = 0.0
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def run(self, work: Work) -> None:
        """Now, if nothing waits and this turn has time left; else in a later turn."""
        if self._waiting:
            self._waiting.append(work)
            return
        now = time.monotonic()
        if not self._scheduled:
            self._scheduled = True
            self._began = now
            # called when the loop has read what there was, before it looks for more
            asyncio.get_running_loop().call_soon(self._go_on)
        if now - self._began < self._slice:
            work()
        else:
            self._waiting.append(work)

    def _go_on(self) -> None:
        waiting = self._waiting
        until = time.monotonic() + self._slice
        while waiting:
            waiting.popleft()()
            if time.monotonic() >= until:
                break
        self._scheduled = bool(waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._go_on)
