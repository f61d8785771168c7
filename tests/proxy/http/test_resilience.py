"""Breaker, retry budget and concurrency, at their boundaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.backends import Guard
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


@pytest.mark.parametrize(("good", "state"), [(3, "open"), (4, "closed")])
def test_failures_of_just_the_ratio_open_it(good: int, state: str) -> None:
    found = breaker()
    for _ in range(good):
        found.record(0.0, failed=False)
    for _ in range(3):
        found.record(0.0, failed=True)
    assert found.state == state


def test_one_failure_fewer_than_its_number_leaves_it_closed() -> None:
    found = breaker()
    for _ in range(2):
        found.record(0.0, failed=True)
    assert found.state == "closed"
    found.record(0.0, failed=True)
    assert found.state == "open"


@pytest.mark.parametrize(("last", "state"), [(10.5, "open"), (10.6, "closed")])
def test_the_end_of_a_window_belongs_to_it(last: float, state: str) -> None:
    found = breaker()
    found.record(0.5, failed=True)  # the clock of a new breaker began at 0
    found._restart(0.5)
    found.record(0.5, failed=True)
    found.record(0.5, failed=True)
    found.record(last, failed=True)
    assert found.state == state


def test_the_time_to_wait_is_never_nothing() -> None:
    found = breaker()
    for _ in range(3):
        found.record(0.0, failed=True)
    assert found.retry_after(4.95) == found.retry_after(6.0) == 0.1


@pytest.mark.parametrize(("given_seconds", "counts"), [(1.79, False), (1.8, True), (30.0, True)])
def test_a_late_answer_counts_from_nine_tenths_of_the_time_on(
    given_seconds: float, counts: bool
) -> None:
    guard = Guard(timeout_seconds=2.0, breaker_failures=1)
    found = Breaker.of(guard, usual_timeout=30.0)
    assert found.patience == Breaker.of(Guard(timeout_seconds=30.0), 2.0).patience
    assert found.record_late(0.0, given_seconds) is counts
    assert found.state == ("open" if counts else "closed")


def test_a_late_answer_that_does_not_count_ends_the_trial() -> None:
    found = Breaker(failures=1, ratio=0.5, window=10.0, open_seconds=5.0, patience=1.0)
    found.record(0.0, failed=True)
    assert found.allows(5.0)
    found.record_late(5.5, 0.5)
    assert found.allows(5.5)


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


def test_what_requests_earn_for_retries_is_bounded() -> None:
    budget = RetryBudget(0.5)
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == 10


def test_a_limit_of_one_lets_one_in() -> None:
    concurrency = Concurrency(1)
    assert concurrency.enter()
    assert not concurrency.enter()
    concurrency.leave()
    assert concurrency.enter()


def test_one_caller_has_its_share_and_no_more() -> None:
    concurrency = Concurrency(3, share=0.5)
    assert [concurrency.enter("a") for _ in range(3)] == [True, True, False]
    assert "one caller may have 2 of the 3" in concurrency.refusal("digits").detail
    assert concurrency.enter("b")
    assert not concurrency.enter("c")
    assert "digits has 3 requests under way" in concurrency.refusal("digits").detail
    concurrency.leave("a")
    assert concurrency.enter("a")
