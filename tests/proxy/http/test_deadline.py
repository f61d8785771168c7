"""Deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.http.request_headers import BadTimeoutError
from proxy.http.deadline import parse, passed_on


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 30.0),
        (b"2.5", 2.5),
        (b"2.5s", 2.5),
        (b"2500ms", 2.5),
        (b"9999", 300.0),
        (b"0", 30.0),
        (b"2m", 120.0),
    ],
)
def test_timeouts_as_callers_write_them(header: bytes | None, seconds: float) -> None:
    assert parse(header, default=30.0, longest=300.0) == seconds


@pytest.mark.parametrize("header", [b"", b"-1", b"1e9", b"nan", b"5d", b"1 2", b"\xff"])
def test_timeouts_that_are_none(header: bytes) -> None:
    with pytest.raises(BadTimeoutError):
        parse(header, default=30.0, longest=300.0)


@given(st.floats(0.02, 300), st.floats(0, 0.01))
def test_what_is_passed_on_is_shorter_and_parses(left: float, margin: float) -> None:
    sent = passed_on(left, margin=margin)
    assert parse(sent, default=1.0, longest=1000.0) <= left + 0.001
