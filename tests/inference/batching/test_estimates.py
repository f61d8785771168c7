"""inference.batching.estimates: what is learned is what was there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.batching.estimates import DurationModel, RateModel


@given(
    st.floats(1e-4, 1.0),
    st.floats(1e-6, 0.1),
    st.lists(st.integers(1, 256), min_size=10, max_size=80),
)
def test_a_straight_line_is_learned(base: float, per_row: float, sizes: list[int]) -> None:
    model = DurationModel()
    for rows in [*sizes, 1, 64, 256]:
        model.add(rows, base + per_row * rows)
    assert model.per_row == pytest.approx(per_row, rel=1e-3, abs=1e-7)
    assert model.base == pytest.approx(base, rel=1e-2, abs=1e-4)
    assert model.predict(512, 256) == pytest.approx(512 * per_row + 2 * base, rel=1e-2, abs=1e-3)


def test_it_forgets_what_is_long_past() -> None:
    model = DurationModel()
    for seconds in (0.001, 0.1):
        for rows in (1, 8) * 300:
            model.add(rows, seconds)
    assert model.base == pytest.approx(0.1, rel=0.01)


def test_nothing_seen_is_nothing_known() -> None:
    model = DurationModel()
    assert (model.base, model.per_row, model.predict(10, 5)) == (0.0, 0.0, 0.0)


def test_the_rate_follows_what_comes() -> None:
    rate = RateModel()
    for number in range(1, 100):
        rate.add(10, number * 0.1)
    assert rate.per_second == pytest.approx(100, rel=0.05)
