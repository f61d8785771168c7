"""kit.http.probe_header: the verifier's mark is believed with its key and about now, else never."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kit.http.probe_header import VALID_SECONDS, is_believed, mark

NOW = 1_764_313_200.0


@given(st.floats(min_value=0, max_value=1e11), st.floats(-VALID_SECONDS + 1, VALID_SECONDS - 1))
def test_a_mark_is_believed_for_some_minutes(now: float, later: float) -> None:
    assert is_believed(mark("key", now).encode(), "key", now + later)


@given(st.one_of(st.floats(VALID_SECONDS + 1, 1e9), st.floats(-1e9, -VALID_SECONDS - 1)))
def test_it_is_not_believed_before_or_after(later: float) -> None:
    assert not is_believed(mark("key", NOW).encode(), "key", NOW + later)


def test_nobody_is_believed_without_the_key() -> None:
    assert not is_believed(mark("other", NOW).encode(), "key", NOW)
    assert not is_believed(mark("", NOW).encode(), "", NOW)
    assert not is_believed(None, "key", NOW)


@given(st.binary(max_size=100))
def test_anything_else_is_no_mark(value: bytes) -> None:
    assert not is_believed(value, "key", NOW)


@given(st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_one_digit_of_the_signature_decides(position: int, digit: str) -> None:
    made = mark("key", NOW)
    start = made.index(".") + 1 + position
    other = made[:start] + digit + made[start + 1 :]
    assert is_believed(other.encode(), "key", NOW) == (other == made)
