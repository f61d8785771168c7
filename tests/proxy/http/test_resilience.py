"""Breaker, budget and places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.http.resilience import Breaker, Concurrency, RetryBudget


def breaker() -> Breaker:
    return Breaker(failures=3, ratio=0.5, window=10.0, open_seconds=5.0)


def test_it_opens_on_failures_and_closes_on_a_trial_that_succeeds() -> None:
    found = breaker()
    for _ in range(3):
        assert found.allows(0.0)
        found.record(0.0, failed=True)
    assert found.state == "open"
    assert not found.allows(4.9)
    assert found.retry_after(4.0) == 1.0
    assert found.allows(5.0)
    assert not found.allows(5.0), "one trial at a time"
    found.record(5.1, failed=False)
    assert found.state == "closed"
    assert found.allows(5.2)


def test_a_trial_that_fails_opens_it_again() -> None:
    found = breaker()
    for _ in range(3):
        found.record(0.0, failed=True)
    assert found.allows(5.0)
    found.record(5.0, failed=True)
    assert not found.allows(9.9)
    assert found.allows(10.0)


def test_a_trial_whose_caller_hung_up_does_not_block_the_next() -> None:
    found = breaker()
    for _ in range(3):
        found.record(0.0, failed=True)
    assert found.allows(5.0)
    found.abandon()
    assert found.allows(5.0)


def test_few_failures_among_many_successes_do_not_open_it() -> None:
    found = breaker()
    for _ in range(10):
        found.record(0.0, failed=False)
    for _ in range(5):
        found.record(0.0, failed=True)
    assert found.state == "closed"


def test_failures_of_an_earlier_window_are_forgotten() -> None:
    found = breaker()
    found.record(0.0, failed=True)
    found.record(0.0, failed=True)
    found.record(11.0, failed=True)
    assert found.state == "closed"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60))
def test_it_always_lets_somebody_through_in_the_end(steps: list[tuple[bool, float]]) -> None:
    found, now = breaker(), 0.0
    for failed, wait in steps:
        now += wait
        if found.allows(now):
            found.record(now, failed=failed)
    assert found.allows(now + 5.0)


@given(st.lists(st.booleans(), min_size=1, max_size=500), st.floats(0, 0.5))
def test_retries_are_at_most_their_share(wanted: list[bool], ratio: float) -> None:
    budget = RetryBudget(ratio)
    retries = 0
    for each in wanted:
        budget.earn()
        retries += each and budget.spend()
    assert retries <= 1 + ratio * len(wanted)


def test_no_ratio_no_retry() -> None:
    assert not RetryBudget(0.0).spend()


def test_places() -> None:
    places = Concurrency(1)
    assert places.enter()
    assert not places.enter()
    places.leave()
    assert places.enter()
