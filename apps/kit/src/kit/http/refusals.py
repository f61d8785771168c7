"""Refusals that are written in a bounded share of the event loop's time.

Past its limit a server that refuses every connection as soon as it is readable soon does nothing
else: refused callers return immediately, so that the answers of one cycle of the loop wait behind
a thousand refusals. Here refusals may take a share of the time; the others wait for it, their
requests read but not parsed. A connection whose refusal waits sends nothing more, so the share
bounds what is read, too.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

SHARE = 0.35
"""Share of the time that reading and refusing may take."""
BURST = 0.01
"""Seconds of refusing that may be saved up while nothing is refused."""
OUTSIDE = 3.0
"""How many times the measured part a refusal costs: the socket is read and written elsewhere."""
TOGETHER = 16
"""Refusals that are measured together: to look at the clock costs as much as half of one."""
PAUSE = 0.001
"""Shortest wait in seconds for the share to grow, where refusals are left."""


LOG_EVERY = 1.0
"""Seconds of refusals that one line of the log is about."""


class Loop(Protocol):
    """The part of an event loop that is needed."""

    def call_soon(self, callback: Callable[..., None], /, *arguments: Any) -> object:
        """Call it in the next cycle of the loop."""

    def call_later(self, delay: float, callback: Callable[..., None], /, *arguments: Any) -> object:
        """Call it after so many seconds."""


class Refusals:
    """Writes refusals now or later. Use it from the event loop only."""

    def __init__(
        self,
        *,
        share: float = SHARE,
        clock: Callable[[], float] = time.monotonic,
        work_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """``work_clock`` measures what a refusal costs: the CPU time of the loop's thread."""
        self._share = share
        self._clock = clock
        self._work_clock = work_clock
        self._waiting: deque[Callable[[], None]] = deque()
        self._saved = BURST
        self._since = clock()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, refuse: Callable[[], None], loop: Loop) -> None:
        """Call ``refuse`` as soon as there is time for it, after those that came before.

        It must not raise.
        """
        self._waiting.append(refuse)
        if not self._scheduled:
            # when everything that is ready was read, so that they are written together
            self._scheduled = True
            loop.call_soon(self._write, loop)

    def _write(self, loop: Loop) -> None:
        now = self._clock()
        self._saved = min(BURST, self._saved + (now - self._since) * self._share)
        self._since = now
        waiting = self._waiting
        before = self._work_clock()
        while waiting and self._saved > 0:
            for _ in range(min(TOGETHER, len(waiting))):
                waiting.popleft()()
            after = self._work_clock()
            self._saved -= (after - before) * OUTSIDE
            before = after
        self._scheduled = bool(waiting)
        if self._scheduled:
            loop.call_later(max(PAUSE, -self._saved / self._share), self._write, loop)


class RefusalCount:
    """Counts refusals by key, and reports them in sums: a line for each would cost more."""

    def __init__(self, report: Callable[[str, int], None]) -> None:
        """``report`` is called with a key and a count about once a second."""
        self._report = report
        self._since: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    def add(self, key: str, loop: Loop) -> None:
        """One more."""
        self.total[key] += 1
        if not self._since:
            loop.call_later(LOG_EVERY, self._flush)
        self._since[key] += 1

    def _flush(self) -> None:
        counts, self._since = self._since, Counter()
        for key, count in counts.items():
            self._report(key, count)
