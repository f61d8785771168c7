"""inference.batching.batcher: the rules in its docstring, one by one, and then all at random."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.batching.batcher import Batcher
from inference.batching.estimates import worth_waiting
from inference.batching.item import Item
from inference.batching.short_runs import KNOWN_AFTER, LONG_RUN
from inference.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    TooLarge,
    Unavailable,
)
from kit.http.admission import Admission
from kit.oip.tensors import Array
from tests.inference.conftest import until
from tests.waits import SECONDS


class Model:
    """Doubles ``x``; keeps the row counts it was run with; can be held; refuses 13."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = 0.0

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        values = feeds["x"]
        self.runs.append(len(values))
        assert self.gate.wait(SECONDS)
        if self.seconds:
            time.sleep(self.seconds)
        if (values == 13).any():
            raise BadRequest("13 is refused")
        results = {"y": values * 2, "z": values + 1}
        return [results[name] for name in outputs or ("y",)]


def ask(
    batcher: Batcher, *values: float, width: int = 1, outputs: tuple[str, ...] = ("y",), **more: Any
) -> tuple[Item, asyncio.Future[Item]]:
    """Submit a request of these rows."""
    future: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
    rows = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
    item = Item({"x": rows}, len(values), outputs, future.set_result, key=(width,), **more)
    batcher.submit(item)
    return item, future


def run_out(batcher: Batcher, item: Item) -> None:
    """Let the request's time be over, and the batcher see that."""
    item.deadline = time.monotonic()
    batcher._sweep_now()


async def held(model: Model, batcher: Batcher) -> asyncio.Future[Item]:
    """Occupy the model with one request until its gate opens."""
    model.gate.clear()
    _, first = ask(batcher, 0)
    await until(lambda: len(model.runs) == 1)
    return first


async def test_a_lone_request_is_run_at_once() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_queue_delay=10.0)
    item = await ask(batcher, 1, 2)[1]
    assert item.results[0].ravel().tolist() == [2, 4]
    assert item.started - item.enqueued < 5
    await batcher.close()


async def test_what_one_turn_of_the_loop_brings_runs_together() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    answers = await asyncio.gather(*(ask(batcher, value)[1] for value in range(5)))
    assert model.runs == [5]
    assert [item.results[0].item() for item in answers] == [0, 2, 4, 6, 8]
    await batcher.close()


async def test_what_came_while_it_was_busy_runs_together() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_batch_size=4)
    first = await held(model, batcher)
    rest = [ask(batcher, value)[1] for value in range(6)]
    model.gate.set()
    await asyncio.gather(first, *rest)
    assert model.runs == [1, 4, 2]
    await batcher.close()


async def test_rows_are_counted_not_requests() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_batch_size=4)
    first = await held(model, batcher)
    rest = [ask(batcher, *range(3))[1], ask(batcher, 1)[1], ask(batcher, 1, 2)[1]]
    model.gate.set()
    await asyncio.gather(first, *rest)
    assert model.runs == [1, 4, 2]
    await batcher.close()


async def test_a_request_larger_than_a_batch_is_run_in_pieces() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_batch_size=4, max_queue_size=100)
    item = await ask(batcher, *range(10))[1]
    assert model.runs == [4, 4, 2]
    assert item.results[0].ravel().tolist() == [value * 2 for value in range(10)]
    assert item.finished >= item.started >= item.enqueued
    await batcher.close()


async def test_one_bad_piece_fails_the_request_it_is_of_and_frees_its_places() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_batch_size=2)
    item = await ask(batcher, 13, 1, 2, 3, 4, 5)[1]
    assert isinstance(item.error, BadRequest)
    assert batcher.queued_rows == 0
    assert await ask(batcher, 1)[1]
    await batcher.close()


async def test_other_shapes_never_share_a_batch() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    first = await held(model, batcher)
    rest = [ask(batcher, value, width=1 + value % 2)[1] for value in range(6)]
    model.gate.set()
    answers = await asyncio.gather(*rest)
    await first
    assert model.runs == [1, 3, 3]
    assert [item.results[0].shape for item in answers] == [(1, 1 + v % 2) for v in range(6)]
    await batcher.close()


async def test_each_request_gets_the_outputs_it_asked_for() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    first = await held(model, batcher)
    asked: list[tuple[str, ...]] = [("y",), ("z",), ("z", "y")]
    rest = [ask(batcher, 5, outputs=names)[1] for names in asked]
    model.gate.set()
    answers = await asyncio.gather(*rest)
    await first
    assert model.runs == [1, 3]
    assert [[r.item() for r in item.results] for item in answers] == [[10], [6], [6, 10]]
    await batcher.close()


async def test_a_bad_row_fails_its_own_request_alone() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    answers = await asyncio.gather(*(ask(batcher, value)[1] for value in range(10, 17)))
    assert [item.error is None for item in answers] == [True] * 3 + [False] + [True] * 3
    assert [item.results[0].item() for item in answers if not item.error] == [
        20, 22, 24, 28, 30, 32,
    ]  # fmt: skip
    await batcher.close()


async def test_a_model_that_breaks_in_an_unforeseen_way_goes_on_serving() -> None:
    class Broken(Model):
        def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
            if (feeds["x"] == 66).any():
                raise MemoryError("unforeseen")
            return super().run(outputs, feeds)

    batcher = Batcher(Broken(), name="m")
    bad, good = await asyncio.gather(ask(batcher, 66)[1], ask(batcher, 1)[1])
    assert isinstance(bad.error, ModelFailed)
    assert good.error is None
    assert (await ask(batcher, 2)[1]).error is None
    await batcher.close()


async def test_a_model_that_loses_rows_is_asked_one_by_one() -> None:
    class Loses(Model):
        def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
            return [values[:1] for values in super().run(outputs, feeds)]

    batcher = Batcher(Loses(), name="m")
    answers = await asyncio.gather(*(ask(batcher, value)[1] for value in range(4)))
    assert [item.results[0].item() for item in answers] == [0, 2, 4, 6]
    await batcher.close()


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_queue_size=4)
    first = await held(model, batcher)
    rest = [ask(batcher, 1, 2)[1], ask(batcher, 3, 4)[1]]
    with pytest.raises(Overloaded, match="4 rows waiting") as refused:
        ask(batcher, 5)
    assert refused.value.retry_after >= 1
    with pytest.raises(TooLarge, match="at most 4"):
        ask(batcher, *range(5))
    model.gate.set()
    await asyncio.gather(first, *rest)
    await ask(batcher, 5)[1]
    await batcher.close()


async def test_a_cancelled_request_frees_its_place_and_is_not_run() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_queue_size=2)
    first = await held(model, batcher)
    item, answer = ask(batcher, 7, 8)
    batcher.cancel(item)
    assert batcher.queued_rows == 0
    assert isinstance(item.error, Cancelled)
    other = ask(batcher, 1, 2)[1]
    model.gate.set()
    await asyncio.gather(first, other)
    assert model.runs == [1, 2]
    assert not answer.done()
    await batcher.close()


async def test_a_cancelled_request_in_pieces_leaves_with_all_of_them() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_batch_size=2, max_queue_size=8)
    first = await held(model, batcher)
    item, _ = ask(batcher, *range(8))
    batcher.cancel(item)
    assert batcher.queued_rows == 0
    model.gate.set()
    await first
    await batcher.close()
    assert model.runs == [1]


async def test_a_request_whose_time_is_up_leaves_the_queue_and_is_not_run() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    first = await held(model, batcher)
    item, waiting = ask(batcher, 1, deadline=time.monotonic() + 3600)
    run_out(batcher, item)
    late = await waiting
    assert isinstance(late.error, DeadlineExceeded)
    assert "in the queue" in late.error.message
    assert batcher.queued_rows == 0
    model.gate.set()
    await first
    await batcher.close()
    assert model.runs == [1]


async def test_time_that_runs_out_during_the_run_counts_too() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    model.gate.clear()
    item, waiting = ask(batcher, 1, deadline=time.monotonic() + 3600)
    await until(lambda: len(model.runs) == 1)
    run_out(batcher, item)
    late = await waiting
    assert isinstance(late.error, DeadlineExceeded)
    assert "while it was run" in late.error.message
    model.gate.set()
    await batcher.close()


async def test_an_earlier_deadline_that_comes_later_is_kept() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    first = await held(model, batcher)
    now = time.monotonic()
    long, short = ask(batcher, 1, deadline=now + 3600)[1], ask(batcher, 2, deadline=now + 0.05)[1]
    assert isinstance((await short).error, DeadlineExceeded)
    assert not long.done()
    model.gate.set()
    assert (await long).error is None
    await first
    await batcher.close()


async def test_closing_finishes_what_is_there_and_refuses_what_comes() -> None:
    model = Model()
    batcher = Batcher(model, name="m")
    first = await held(model, batcher)
    waiting = ask(batcher, 3)[1]
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        ask(batcher, 4)
    model.gate.set()
    await closing
    assert (await first).error is None
    assert (await waiting).results[0].item() == 6


async def test_an_idle_instance_waits_while_another_runs() -> None:
    model = Model()
    batcher = Batcher(model, name="m", instances=2, max_batch_size=4, max_queue_delay=30.0)
    first = await held(model, batcher)  # nothing else was running: no wait, for all its 30 s
    rest = [ask(batcher, value)[1] for value in range(3)]
    await asyncio.sleep(0.05)
    assert model.runs == [1]  # the second instance holds back for a fuller batch
    rest.append(ask(batcher, 3)[1])
    await until(lambda: len(model.runs) == 2)
    assert model.runs == [1, 4]  # full: it goes although the first one still runs
    late = ask(batcher, 9)[1]
    model.gate.set()  # the model is idle now: nobody waits
    await asyncio.gather(first, *rest, late)
    await batcher.close()


async def test_a_held_back_batch_goes_when_its_delay_is_over() -> None:
    model = Model()
    batcher = Batcher(model, name="m", instances=2, max_batch_size=4, max_queue_delay=0.02)
    first = await held(model, batcher)
    second = ask(batcher, 1)[1]
    await until(lambda: len(model.runs) == 2)
    model.gate.set()
    await asyncio.gather(first, second)
    await batcher.close()


@pytest.mark.parametrize(
    ("rows", "rate", "base", "expected"),
    [
        (1, 0.0, 1.0, 0.0),  # nothing comes: nothing to wait for
        (1, 1000.0, 0.010, 0.009),  # ten rows come within the fixed cost of a run
        (10, 1000.0, 0.010, 0.0),  # ten that wait weigh as much as the one that may come
        (1, 50.0, 0.010, 0.0),
    ],
)
def test_waiting_is_worth_what_it_saves(
    rows: int, rate: float, base: float, expected: float
) -> None:
    assert worth_waiting(rows, rate, base) == pytest.approx(expected)


arrivals = st.lists(
    st.tuples(
        st.lists(st.integers(0, 20), min_size=1, max_size=6),  # rows; 13 is refused
        st.integers(1, 2),  # width
        st.sampled_from(["wait", "wait", "wait", "cancel", "expire"]),
        st.integers(0, 3),  # turns of the loop before the next one comes
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(arrivals, st.integers(1, 8), st.integers(1, 3), st.sampled_from([0.0, 0.001, "auto"]))
def test_random_arrivals_are_answered_as_if_each_were_alone(
    cases: list[tuple[list[int], int, str, int]], batch: int, instances: int, delay: Any
) -> None:
    async def run() -> None:
        model = Model()
        model.seconds = 0.0005
        batcher = Batcher(
            model, name="m", max_batch_size=batch, max_queue_size=10_000,
            instances=instances, max_queue_delay=delay,
        )  # fmt: skip
        asked = []
        for rows, width, fate, turns in cases:
            deadline = time.monotonic() if fate == "expire" else math.inf
            item, answer = ask(batcher, *rows, width=width, deadline=deadline)
            asked.append((rows, width, fate, item, answer))
            for _ in range(turns):
                await asyncio.sleep(0)
            if fate == "cancel" and not item.settled:
                batcher.cancel(item)
            elif fate == "cancel":
                asked[-1] = (rows, width, "wait", item, answer)
        for rows, width, fate, item, answer in asked:
            if fate == "cancel":
                continue
            done = await asyncio.wait_for(answer, 20)
            assert done is item
            if fate == "expire":
                assert isinstance(item.error, DeadlineExceeded)
            elif 13 in rows:
                assert isinstance(item.error, BadRequest)
            else:
                assert item.error is None
                expected = np.repeat(np.array(rows, np.float32)[:, None] * 2, width, axis=1)
                assert np.array_equal(item.results[0], expected)
        await batcher.close()
        assert batcher.queued_rows == 0
        assert batcher.running_batches == 0
        assert max(model.runs, default=0) <= batch

    asyncio.run(run())


async def test_a_thousand_requests_leave_nothing_behind() -> None:
    model = Model()
    batcher = Batcher(model, name="m", max_batch_size=16, max_queue_size=100_000)
    generator = random.Random(5)
    answers = []
    for number in range(1000):
        answers.append(ask(batcher, *[number % 12] * generator.randint(1, 5))[1])
        if number % 50 == 0:
            await asyncio.sleep(0)
    for number, answer in enumerate(answers):
        assert set((await answer).results[0].ravel().tolist()) == {number % 12 * 2}
    await batcher.close()
    assert batcher.queued_rows == 0


async def test_short_runs_run_on_the_loops_own_thread_once_they_are_known_to_be_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found: a model's thread waited 7 to 16 ms for the interpreter's lock to run for 1 ms."""
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)  # nothing takes any time
    threads: list[threading.Thread] = []

    class Watched(Model):
        def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
            threads.append(threading.current_thread())
            return super().run(outputs, feeds)

    model = Watched()
    batcher = Batcher(model, name="m", max_batch_size=4, short_run=0.001, larger_short_batches=True)
    for number in range(KNOWN_AFTER + 2):
        assert (await ask(batcher, number)[1]).results[0].tolist() == [[2 * number]]
    here = threading.current_thread()
    assert here not in threads[:KNOWN_AFTER]
    assert threads[KNOWN_AFTER:] == [here, here]

    answers = [ask(batcher, number + 20)[1] for number in range(16)]
    await asyncio.gather(*answers)
    assert model.runs[KNOWN_AFTER + 2 :] == [4, 8, 4], (
        "four were never seen to be short, so they ran in the thread; then twice as many may"
    )
    await batcher.close()


async def test_a_run_that_turns_out_long_brings_the_thread_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    threads: list[threading.Thread] = []

    class Sometimes(Model):
        def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
            threads.append(threading.current_thread())
            if (feeds["x"] == 7).any():
                clock[0] += 2 * LONG_RUN
            return super().run(outputs, feeds)

    batcher = Batcher(Sometimes(), name="m", short_run=0.001)
    for _ in range(KNOWN_AFTER + 1):
        await ask(batcher, 1)[1]
    await ask(batcher, 7)[1]
    for _ in range(200):
        await ask(batcher, 1)[1]
    here = threading.current_thread()
    assert threads[KNOWN_AFTER : KNOWN_AFTER + 2] == [here, here]
    assert here not in threads[KNOWN_AFTER + 2 :]
    await batcher.close()


async def test_who_has_waited_past_the_target_is_refused_as_long_as_two_batches_are_behind() -> (
    None
):
    model = Model()
    admission = Admission(target=3600, floor=1, ceiling=1)
    batcher = Batcher(model, name="m", max_batch_size=2, admission=admission)
    first = await held(model, batcher)
    late = [ask(batcher, number) for number in range(8)]
    pieces = ask(batcher, *range(20, 30))[1]
    few = [ask(batcher, number) for number in range(4)]
    for item in batcher._queue:
        item.enqueued -= 7200
    for item, _ in few:
        item.enqueued += 7200
    model.gate.set()
    assert all([isinstance((await answer).error, Overloaded) for _, answer in late])
    assert (await pieces).error is None, "a request in pieces is run as a whole or not at all"
    assert (await first).error is None
    assert [(await answer).error for _, answer in few] == [None] * 4
    await batcher.close()


async def test_two_batches_may_wait_however_long_they_take() -> None:
    model = Model()
    admission = Admission(target=3600, floor=1, ceiling=1)
    batcher = Batcher(model, name="m", max_batch_size=2, admission=admission)
    first = await held(model, batcher)
    few = [ask(batcher, number) for number in range(4)]
    for item, _ in few:
        item.enqueued -= 7200
    model.gate.set()
    assert [(await answer).error for _, answer in few] == [None] * 4
    assert (await first).error is None
    await batcher.close()


async def test_the_bounds_of_the_limit_follow_rows_per_request() -> None:
    admission = Admission(target=3600, floor=1, ceiling=1)
    batcher = Batcher(
        Model(), name="m", max_batch_size=64, max_queue_size=1024, admission=admission
    )
    assert admission.limit == 512
    for _ in range(500):
        await ask(batcher, *range(20, 84))[1]
    assert admission.limit == (1024 + 64) // 64, "as many as the queue holds"
    await batcher.close()
