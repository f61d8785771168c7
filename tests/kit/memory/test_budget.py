"""kit.memory.budget: what is taken now and what is waited for come out of the same memory."""

from __future__ import annotations

import asyncio

import pytest

from kit.memory.budget import Budget, BusyError, TooCostlyError


def budget() -> Budget:
    return Budget(100, setting="body_memory_bytes")


def test_what_is_not_free_now_is_refused_with_the_setting_to_raise() -> None:
    bodies = budget()
    bodies.take(60, "the request's body")
    with pytest.raises(BusyError, match=r"are in use \(body_memory_bytes\): try"):
        bodies.take(60, "the request's body")
    assert bodies.free == 40
    bodies.give(60)
    bodies.take(100, "the request's body")


async def test_what_is_given_back_goes_to_who_waits() -> None:
    bodies = budget()
    bodies.take(60, "a body")
    held: list[int] = []

    async def wait() -> None:
        async with bodies.room(80, "the unpacked body", wait_seconds=60):
            held.append(bodies.free)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert not held
    bodies.give(60)
    await waiting
    assert held == [20]
    assert bodies.free == 100


async def test_what_never_fits_is_refused_at_once() -> None:
    with pytest.raises(TooCostlyError, match="body_memory_bytes"):
        async with budget().room(101, "the unpacked body"):
            pass
