"""How tests wait: for a condition, never for a time.

The bound is only reached by a failure, so it is generous: a busy machine may take a minute for
what an idle one does in a millisecond. What nothing can be waited for ("it does not happen") is
shown by something that happens after it, not by a pause.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
SECONDS = 90.0


def until(condition: Callable[[], T], what: str = "it", *, seconds: float = SECONDS) -> T:
    """The first true value of ``condition``; AssertionError that names ``what`` without one."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come in {seconds:g} s; last: {found!r}"
        time.sleep(0.01)
    return found


async def until_async(
    condition: Callable[[], T | Awaitable[T]], what: str = "it", *, seconds: float = SECONDS
) -> T:
    """The same on the event loop; ``condition`` may be a coroutine function."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        found: T = await value if isinstance(value, Awaitable) else value
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not come in {seconds:g} s; last: {found!r}"
        await asyncio.sleep(0.005)
