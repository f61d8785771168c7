"""How many requests may be under way: fewer after 503, again more after success."""

from __future__ import annotations

import threading

import pytest

from unzip.s3.concurrency_limit import ConcurrencyLimit
from unzip.s3.errors import SlowDown


def test_it_halves_on_slow_down_and_recovers() -> None:
    limit = ConcurrencyLimit(16)
    for _ in range(20):
        with pytest.raises(SlowDown), limit:
            raise SlowDown("503")
    assert limit.allowed == 8  # one crowd of 503s counts once
    for _ in range(200):
        with limit:
            pass
    assert limit.allowed == 16


def test_it_lets_no_more_in_than_allowed() -> None:
    limit = ConcurrencyLimit(3)
    inside, most, lock, gate = 0, 0, threading.Lock(), threading.Barrier(3)

    def work() -> None:
        nonlocal inside, most
        for _ in range(4):
            with limit:
                with lock:
                    inside += 1
                    most = max(most, inside)
                gate.wait(90)  # three at a time, or it breaks
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3
