"""inference.turns: order, slices, and that the loop is given back between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from inference import turns as module
from inference.turns import Turns


class Clock:
    """Time that passes only when work says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def work(clock: Clock, done: list[int], number: int, seconds: float) -> Callable[[], None]:
    def run() -> None:
        clock.now += seconds
        done.append(number)

    return run


async def test_what_fits_into_a_slice_is_done_at_once_and_the_rest_in_order(clock: Clock) -> None:
    turns, done = Turns(slice_seconds=0.005), list[int]()
    for number in range(10):
        turns.run(work(clock, done, number, 0.002))
    assert done == [0, 1, 2], "the third began within the slice"
    assert len(turns) == 7
    await asyncio.sleep(0)
    assert done == [0, 1, 2, 3, 4, 5], "one more slice, and no more"
    turns.run(work(clock, done, 10, 0.002))
    assert done[-1] == 5, "what comes later does not overtake what waits"
    for _ in range(20):
        await asyncio.sleep(0)
    assert done == list(range(11))


async def test_a_new_turn_has_a_whole_slice(clock: Clock) -> None:
    turns, done = Turns(slice_seconds=0.005), list[int]()
    turns.run(work(clock, done, 0, 1.0))
    await asyncio.sleep(0)
    turns.run(work(clock, done, 1, 1.0))
    assert done == [0, 1]


async def test_the_loop_goes_on_between_slices(clock: Clock) -> None:
    turns, done = Turns(slice_seconds=0.005), list[int]()
    seen = []
    for number in range(4):
        turns.run(work(clock, done, number, 0.01))
    asyncio.get_running_loop().call_soon(lambda: seen.append(len(done)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert seen == [2], "it was called after one slice, not after all of them"
