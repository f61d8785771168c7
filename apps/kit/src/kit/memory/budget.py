"""Memory that many requests share: each holds what it needs, and all of them a bounded amount.

What could never be had is refused immediately; what is not free now is waited for, those before it
first, for a bounded time, or refused where the caller cannot wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kit.memory.cgroup import memory_limit

WITHOUT_LIMIT = 256 * 1024 * 1024
"""Bytes where the container has no limit to take a share of."""


BODIES_SHARE = 6
"""What of the container's memory is for the bodies of requests: one part in so many."""


class TooCostlyError(ValueError):
    """More memory is asked for than there is for all requests together."""


class BusyError(Exception):
    """The memory is in use by others, and was for as long as the caller may wait."""


def share_of_memory(share: int) -> int:
    """One part in ``share`` of the container's memory, in bytes."""
    limit = memory_limit()
    return WITHOUT_LIMIT if limit is None else limit // share


def body_budget(memory: int) -> Budget:
    """The memory for the bodies of all requests under way; 0 follows the container's limit."""
    return Budget(memory or share_of_memory(BODIES_SHARE), setting="body_memory_bytes")


class Held:
    """Bytes that are held; what is no longer needed may be given back before the end."""

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self.size = size

    def more(self, size: int) -> None:
        """Hold ``size`` bytes more; BusyError where they are not free now."""
        self._budget.take(size, "what it reads")
        self.size += size

    def keep(self, size: int) -> None:
        """Give back all but ``size`` bytes."""
        if size < self.size:
            self._budget.give(self.size - size)
            self.size = size


class Budget:
    """An amount of bytes. Use it from one event loop only."""

    def __init__(
        self, memory: int, *, setting: str, purpose: str = "", wait_seconds: float = 1.0
    ) -> None:
        """``memory`` is in bytes; messages name the ``setting`` and say the ``purpose``."""
        self.total = memory
        self.free = memory
        self._setting = setting
        self._purpose = purpose
        self._wait_seconds = wait_seconds
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def check(self, size: int, what: str) -> None:
        """TooCostlyError where ``size`` bytes can never be had; ``what`` is said to take them."""
        if size > self.total:
            raise TooCostlyError(
                f"{what} takes about {_mebibytes(size)}{self._purpose}, more than the "
                f"{_mebibytes(self.total)} there are for that ({self._setting}): send less"
            )

    def take(self, size: int, what: str) -> None:
        """Hold ``size`` bytes until they are given back; BusyError where they are not free now."""
        if size > self.free:
            raise self._busy(size, what)
        self.free -= size

    def give(self, size: int) -> None:
        """Let go of ``size`` bytes."""
        self.free += size
        if self._waiting:
            self._serve()

    @asynccontextmanager
    async def room(
        self, size: int, what: str, *, wait_seconds: float | None = None
    ) -> AsyncIterator[Held]:
        """Hold ``size`` bytes.

        TooCostlyError, or BusyError where they do not become free in time.
        """
        await self.wait_for(size, what, wait_seconds)
        held = Held(self, size)
        try:
            yield held
        finally:
            held.keep(0)

    async def wait_for(self, size: int, what: str, wait_seconds: float | None = None) -> None:
        """Hold ``size`` bytes once they are free, until they are given back; errors as `room`."""
        self.check(size, what)
        if not self._waiting and size <= self.free:
            self.free -= size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, future)
        self._waiting.append(entry)
        seconds = self._wait_seconds if wait_seconds is None else wait_seconds
        try:
            async with asyncio.timeout(min(seconds, self._wait_seconds)):
                await future
        except BaseException as error:
            if future.done() and not future.cancelled():
                self.give(size)  # it came at the last moment
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._serve()
            if isinstance(error, TimeoutError):
                raise self._busy(size, what) from None
            raise

    def _busy(self, size: int, what: str) -> BusyError:
        return BusyError(
            f"{what} takes about {_mebibytes(size)}{self._purpose}, and all "
            f"{_mebibytes(self.total)} for that are in use ({self._setting}): try again"
        )

    def _serve(self) -> None:
        """Let those who wait have what is free, in the order in which they came."""
        while self._waiting:
            size, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
            elif size <= self.free:
                self._waiting.popleft()
                self.free -= size
                future.set_result(None)
            else:
                return


def _mebibytes(size: int) -> str:
    return f"{-(-size >> 20)} MiB"
