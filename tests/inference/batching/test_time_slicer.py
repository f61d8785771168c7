"""inference.batching.time_slicer: order, slices, and that the loop is given back between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inference.batching.time_slicer import WORK_PER_READING, TimeSlicer

SLICE = 0.005


class Clock:
    """Time that passes only when work says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Clock, TimeSlicer, list[int]]:
    clock = Clock()
    return clock, TimeSlicer(slice_seconds=SLICE, clock=clock), []


def work(clock: Clock, done: list[int], number: int, seconds: float) -> Callable[[], None]:
    def run() -> None:
        clock.now += seconds
        done.append(number)

    return run


async def test_work_begins_when_the_loop_has_read_and_goes_on_in_order() -> None:
    clock, turns, done = made()
    for number in range(10):
        turns.run(work(clock, done, number, 0.002))
    assert not done, "what is ready is read first"
    await asyncio.sleep(0)
    assert done == [0, 1, 2], "the third began within the slice"
    assert len(turns) == 7
    turns.run(work(clock, done, 10, 0.002))
    for _ in range(20):
        await asyncio.sleep(0)
    assert done == list(range(11))


async def test_a_turn_works_three_times_as_long_as_it_reads() -> None:
    """Found: a turn read a thousand requests and worked for five milliseconds."""
    clock, turns, done = made()
    turns.run(work(clock, done, 0, 0.002))
    for number in range(1, 100):
        turns.run(work(clock, done, number, 0.002))
    clock.now += 0.02  # reading them took so long
    await asyncio.sleep(0)
    expected = WORK_PER_READING * 0.02 / 0.002
    assert expected <= len(done) <= expected + 3, "up to the slice in which the time was over"


async def test_a_batch_runs_after_a_slice_and_before_the_next_one() -> None:
    clock, turns, done = made()
    batches: list[int] = []
    for number in range(10):
        turns.run(work(clock, done, number, 0.002))
    turns.run_after(lambda: batches.append(len(done)))
    clock.now += 0.1
    await asyncio.sleep(0)
    assert batches == [3], "it did not wait for all of them"
    assert len(done) == 10

    turns.run_after(lambda: turns.run_after(lambda: batches.append(99)))
    await asyncio.sleep(0)
    assert batches[-1] == 99, "nothing else waited: the next batch came in the same turn"


async def test_the_loop_goes_on_between_slices() -> None:
    clock, turns, done = made()
    seen = []
    for number in range(4):
        turns.run(work(clock, done, number, 0.01))
    asyncio.get_running_loop().call_soon(lambda: seen.append(len(done)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert seen == [1], "it was called after one slice, not after all of them"
    assert done == [0, 1, 2, 3]
