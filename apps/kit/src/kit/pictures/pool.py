"""Decodes what strangers send: in threads, and all of it together within an amount of memory.

Whoever asks says how many bytes the work takes at most; see :mod:`kit.memory.budget`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from kit.memory.budget import Budget, BusyError, Held, TooCostlyError, share_of_memory
from kit.memory.cgroup import usable_cpus

__all__ = [
    "MOST_JSON_MEMORY",
    "BusyError",
    "Decoding",
    "Held",
    "TooCostlyError",
    "csv_memory",
    "json_memory",
]

SHARE = 3
"""What of the container's memory is for decoding: one part in so many."""

MOST_JSON_MEMORY = 96 * 1024 * 1024
"""Bytes that one JSON document may become, whatever memory there is.

A parser makes all of it in one go, and nothing else in the process runs meanwhile: so much takes
it up to a quarter of a second (measured: 0.1 s for numbers, 0.25 s for different names).
"""

P = ParamSpec("P")
T = TypeVar("T")


class Decoding(Budget):
    """A budget of bytes and the threads that use it. Use it from one event loop only."""

    def __init__(self, memory: int = 0, *, wait_seconds: float = 1.0) -> None:
        """``memory`` is in bytes; 0 follows the container's limit."""
        super().__init__(
            memory or share_of_memory(SHARE),
            setting="decode_memory_bytes",
            purpose=" to decode",
            wait_seconds=wait_seconds,
        )
        self._threads = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")

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
        memory reserved until the thread has let go of it.
        """
        await self.wait_for(size, what)
        try:
            work_done = self.thread(work, *arguments, **named)
        except BaseException:
            self.give(size)
            raise
        work_done.add_done_callback(lambda _: self.give(size))
        try:
            return await asyncio.shield(work_done)
        finally:
            # An error holds this frame, which would hold the error: a circle, with the work's
            # arguments and all it has made, until the collector comes by.
            del work_done

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


def json_memory(document: bytes) -> int:
    """The most bytes that a JSON document takes as Python objects and as arrays made of them.

    Every value but the first stands behind a comma. Measured with CPython 3.11 and orjson: 32
    bytes a number and its place, 16 more for its arrays, 56 a text, 88 an empty list, up to 240
    an object; a character takes four bytes where one in its text does. TooCostlyError where it
    is more than ``MOST_JSON_MEMORY``.
    """
    size = (
        5 * len(document)
        + 36 * document.count(b'"')
        + 56 * document.count(b",")
        + 96 * document.count(b"[")
        + 280 * document.count(b"{")
    )
    if size > MOST_JSON_MEMORY:
        raise TooCostlyError(
            f"its JSON takes about {size >> 20} MiB to parse, and nothing else runs meanwhile: at "
            f"most {MOST_JSON_MEMORY >> 20} MiB are accepted; send less"
        )
    return size


def csv_memory(document: bytes) -> int:
    """The same for CSV: a text, a number, two slots in lists and the arrays for each cell."""
    cells = document.count(b",") + document.count(b";") + document.count(b"\t")
    return 4 * len(document) + 128 * cells + 280 * (document.count(b"\n") + document.count(b"\r"))
