"""Decodes what strangers send: in threads, and all of it together within an amount of memory.

Whoever asks says how many bytes the work takes at most. What could never fit is refused at
once; what does not fit now waits for those before it, for a bounded time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from kit.cgroup import memory_limit, usable_cpus

SHARE = 3
"""What of the container's memory is for decoding: one part in so many."""
WITHOUT_LIMIT = 256 * 1024 * 1024

P = ParamSpec("P")
T = TypeVar("T")


class TooCostlyError(ValueError):
    """The work takes more memory than there is for all of it together."""


class BusyError(Exception):
    """The memory is in use by others, and was for as long as the caller may wait."""


def default_memory() -> int:
    """Bytes for decoding that suit this container."""
    return (memory_limit() or WITHOUT_LIMIT * SHARE) // SHARE


class Held:
    """Bytes that are held; what is no longer needed may be given back before the end."""

    def __init__(self, decoding: Decoding, size: int) -> None:
        self._decoding = decoding
        self.size = size

    def keep(self, size: int) -> None:
        """Give back all but ``size`` bytes."""
        if size < self.size:
            self._decoding.give(self.size - size)
            self.size = size


class Decoding:
    """A budget of bytes and the threads that use it. Use it from one event loop only."""

    def __init__(self, memory: int = 0, *, wait_seconds: float = 1.0) -> None:
        """``memory`` is in bytes; 0 follows the container's limit."""
        self.total = memory or default_memory()
        self.free = self.total
        self._wait_seconds = wait_seconds
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._threads = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")

    def check(self, size: int, what: str) -> None:
        """TooCostlyError where ``size`` bytes can never be had; ``what`` is said to take them."""
        if size > self.total:
            raise TooCostlyError(
                f"{what} takes about {-(-size >> 20)} MiB to decode, more than the "
                f"{self.total >> 20} MiB there are for that (decode_memory_bytes): send less"
            )

    @asynccontextmanager
    async def room(
        self, size: int, what: str, *, wait_seconds: float | None = None
    ) -> AsyncIterator[Held]:
        """Hold ``size`` bytes.

        TooCostlyError, or BusyError where they do not become free in time.
        """
        await self._take(size, what, wait_seconds)
        held = Held(self, size)
        try:
            yield held
        finally:
            held.keep(0)

    async def run(
        self,
        size: int,
        what: str,
        work: Callable[P, T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """What ``work`` gives, done in a thread that holds ``size`` bytes until it is done.

        TooCostlyError and BusyError as for ``room``. Who stops waiting for the work leaves its
        memory taken until the thread has let go of it.
        """
        await self._take(size, what, None)
        try:
            work_done = self.thread(work, *arguments, **named)
        except BaseException:
            self.give(size)
            raise
        work_done.add_done_callback(lambda _: self.give(size))
        return await asyncio.shield(work_done)

    def thread(
        self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> asyncio.Future[T]:
        """``work`` done in a thread, for who holds its memory by ``room`` or needs little."""
        return asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: work(*arguments, **named)
        )

    def close(self) -> None:
        """Begin no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _take(self, size: int, what: str, wait_seconds: float | None) -> None:
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
                raise BusyError(
                    f"{what} takes about {-(-size >> 20)} MiB to decode, and all "
                    f"{self.total >> 20} MiB for that are in use: try again"
                ) from None
            raise

    def give(self, size: int) -> None:
        """Let go of ``size`` bytes."""
        self.free += size
        self._serve()

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


def json_memory(document: bytes) -> int:
    """The most bytes that a JSON document takes as Python objects and as arrays made of them.

    Every value but the first stands behind a comma. Measured with CPython 3.11 and orjson: 32
    bytes a number and its place, 16 more for its arrays, 56 a text, 88 an empty list, up to 240
    an object; a character takes four bytes where one in its text does.
    """
    return (
        5 * len(document)
        + 36 * document.count(b'"')
        + 56 * document.count(b",")
        + 96 * document.count(b"[")
        + 280 * document.count(b"{")
    )


def csv_memory(document: bytes) -> int:
    """The same for CSV: a text, a number, two places in lists and the arrays for each cell."""
    cells = document.count(b",") + document.count(b";") + document.count(b"\t")
    return 4 * len(document) + 128 * cells + 280 * (document.count(b"\n") + document.count(b"\r"))
