"""Work side by side: bounded, and over at the first error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from unzip.concurrency import Budget, CallGroup, Cancelled


def test_all_is_done_and_the_budget_given_back() -> None:
    done: list[int] = []
    budget = Budget(10)
    with ThreadPoolExecutor(4) as pool:
        group = CallGroup(pool, 4, budget)
        for n in range(50):
            group.reserve(n)
            group.submit(lambda n=n: done.append(n), holding=n)  # some exceed it: alone, then
        group.finish()
    assert sorted(done) == list(range(50))
    budget.take(10)  # would block if anything were held


def test_the_first_error_skips_the_rest_and_is_raised_by_both() -> None:
    done: list[int] = []
    gate = threading.Event()
    budget = Budget(100)

    def fail() -> None:
        gate.wait(10)
        raise KeyError("first")

    with ThreadPoolExecutor(1) as pool:
        group = CallGroup(pool, 10, budget)
        group.reserve(50)
        group.submit(fail, holding=50)
        group.reserve(50)
        group.submit(lambda: done.append(1), holding=50)
        gate.set()
        with pytest.raises(KeyError):
            group.finish()
        with pytest.raises(KeyError):
            group.submit(lambda: done.append(2))
        group.settle()
    assert done == []
    budget.take(100)


def test_settle_waits_for_what_is_under_way() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    with ThreadPoolExecutor(2) as pool:
        group = CallGroup(pool, 2)
        group.submit(work)
        begun.wait(10)
        timer = threading.Timer(0.05, go_on.set)
        timer.start()
        group.settle()
        assert ended.is_set()
        with pytest.raises(Cancelled):
            group.submit(work)
        timer.join()
