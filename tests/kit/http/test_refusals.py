"""kit.http.refusals: refusals keep to their share of the time, in order, by a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kit.http.refusals import BURST, OUTSIDE, TOGETHER, RefusalCount, Refusals

COST = 0.00001


class Loop:
    """An event loop whose time passes when its timers say so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.worked = 0.0
        self.soon: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.soon.append(lambda: callback(*arguments))

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> None:
        self.timers.append((self.now + delay, lambda: callback(*arguments)))

    def run_soon(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def run_until(self, end: float) -> None:
        """Run what is due until then."""
        while True:
            self.run_soon()
            due = min(self.timers, default=(end, None), key=lambda timer: timer[0])
            if due[1] is None or due[0] >= end:
                break
            self.timers.remove(due)
            self.now = max(self.now, due[0])
            due[1]()
        self.now = end


def refusals(loop: Loop, share: float = 0.25) -> Refusals:
    return Refusals(share=share, clock=lambda: loop.now, work_clock=lambda: loop.worked)


def refuse(loop: Loop, done: list[int], number: int) -> Callable[[], None]:
    def run() -> None:
        loop.worked += COST
        done.append(number)

    return run


def test_a_few_are_refused_in_the_turn_in_which_they_came() -> None:
    loop, done = Loop(), list[int]()
    waiting = refusals(loop)
    for number in range(8):
        waiting.add(refuse(loop, done, number), loop)
    assert not done, "what is ready is read first"
    loop.run_soon()
    assert done == list(range(8))
    assert not loop.timers


def test_many_take_no_more_than_their_share_of_the_time() -> None:
    """Found: a turn refused every ready connection before it answered the next 64 rows."""
    loop, done = Loop(), list[int]()
    waiting = refusals(loop)
    for number in range(100_000):
        waiting.add(refuse(loop, done, number), loop)
    loop.run_soon()
    assert len(done) * COST * OUTSIDE <= BURST + TOGETHER * COST * OUTSIDE
    first = len(done)
    loop.run_until(loop.now + 1.0)
    spent = (len(done) - first) * COST * OUTSIDE
    assert 0.2 <= spent <= 0.25 + BURST
    assert done == list(range(len(done))), "in the order they came"
    assert len(waiting) == 100_000 - len(done)


def test_time_without_refusals_is_not_saved_up_for_long() -> None:
    loop, done = Loop(), list[int]()
    waiting = refusals(loop)
    loop.run_until(loop.now + 3600)
    for number in range(100_000):
        waiting.add(refuse(loop, done, number), loop)
    loop.run_soon()
    assert len(done) * COST * OUTSIDE <= BURST + TOGETHER * COST * OUTSIDE


def test_what_is_added_by_a_refusal_is_refused_too() -> None:
    loop, done = Loop(), list[int]()
    waiting = refusals(loop)
    waiting.add(lambda: waiting.add(refuse(loop, done, 1), loop), loop)
    loop.run_until(loop.now + 0.1)
    assert done == [1]


def test_refusals_are_reported_in_sums() -> None:
    loop = Loop()
    reported: list[tuple[str, int]] = []
    count = RefusalCount(lambda key, number: reported.append((key, number)))
    for _ in range(1000):
        count.add("digits", loop)
    count.add("other", loop)
    assert not reported
    loop.run_until(loop.now + 1.5)
    assert sorted(reported) == [("digits", 1000), ("other", 1)]
    count.add("digits", loop)
    loop.run_until(loop.now + 1.5)
    assert reported[-1] == ("digits", 1)
    assert count.total == {"digits": 1001, "other": 1}
    assert not loop.timers, "nothing wakes the loop where nothing is refused"
