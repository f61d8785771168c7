"""kit.http.admission: the limit follows the measured wait, within its bounds, by a fake clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kit.http.admission import AIM, WINDOW, Admission

TARGET = 0.1


class Server:
    """A queue that is always asked for more than its limit: requests wait limit / rate."""

    def __init__(self, rate: float, *, floor: int = 16, ceiling: int = 100_000) -> None:
        self.rate = rate
        self.now = 100.0
        self.admission = Admission(
            target=TARGET, floor=floor, ceiling=ceiling, clock=lambda: self.now
        )

    @property
    def wait(self) -> float:
        return self.admission.open / self.rate

    def run(self, seconds: float, *, offered: int = 1_000_000) -> None:
        """Requests come until as many are open as may be, or ``offered``."""
        until = self.now + seconds
        admission = self.admission
        while self.now < until:
            while admission.open < min(offered, admission.limit):
                admission.enter()
            while admission.open > min(offered, admission.limit):
                admission.leave()
            admission.waited(self.wait)
            self.now += WINDOW / 4


def test_a_model_has_as_many_open_as_it_answers_within_the_target() -> None:
    """Found: one count for all was 40 ms of waiting for one model, 270 ms for another."""
    for rate in (500, 1_800, 14_000, 50_000):
        server = Server(rate)
        server.run(5.0)
        assert 0.8 * AIM * TARGET <= server.wait <= TARGET


def test_a_model_that_slows_down_gets_fewer_and_leaves_that_state_by_itself() -> None:
    server = Server(14_000)
    server.run(5.0)
    before = server.admission.limit
    server.rate = 1_400
    server.run(2.0)
    assert server.wait <= TARGET
    server.rate = 14_000
    server.run(3.0)
    assert server.admission.limit > 0.8 * before


def test_what_is_not_felt_does_not_move_the_limit() -> None:
    server = Server(14_000)
    server.run(5.0)
    server.run(WINDOW, offered=3)  # the window in which it was felt ends
    before = server.admission.limit
    server.run(60.0, offered=3)
    assert server.admission.limit == before


def test_waits_below_the_limit_bring_it_down_to_what_was_open() -> None:
    """A server that shares its CPU makes ten requests wait as long as a thousand."""
    server = Server(100)
    server.run(WINDOW * 2, offered=100)
    assert server.admission.limit <= 100


def test_the_bounds_hold_whatever_is_measured() -> None:
    for rate in (1, 10_000_000):
        server = Server(rate, floor=16, ceiling=2_000)
        server.run(5.0)
        assert server.admission.limit == (16 if rate == 1 else 2_000)
    server.admission.bound(4, 8)
    assert server.admission.limit == 8
    server.admission.bound(64, 8)
    assert server.admission.limit == 64, "the floor is stronger than the ceiling"


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1), st.integers(-3, 3)), max_size=200))
def test_any_samples_keep_the_limit_within_its_bounds(
    samples: list[tuple[float, float, int]],
) -> None:
    now = 0.0
    admission = Admission(target=TARGET, floor=2, ceiling=64, clock=lambda: now)
    for wait, passed, change in samples:
        now += passed
        for _ in range(change):
            admission.enter()
        for _ in range(min(admission.open, -change)):
            admission.leave()
        admission.waited(wait)
        assert 2 <= admission.limit <= 64
        assert admission.full == (admission.open >= admission.limit)
