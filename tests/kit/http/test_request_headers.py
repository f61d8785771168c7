"""kit.http.request_headers: one rule for ids, timeouts, traces and mirrored copies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.http.request_headers import (
    BadTimeoutError,
    is_shadow_host,
    new_request_id,
    parse_timeout,
    request_id_of,
    trace_of,
    valid_request_id,
    write_timeout,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"2", 2.0), (b"2.5s", 2.5), (b"2500ms", 2.5), (b"10us", 1e-5), (b"2m", 120), (b"1h", 3600),
     (b" 3s ", 3.0), (b"0", None), (b"0.0ms", None)],
)  # fmt: skip
def test_a_timeout_is_seconds_or_has_a_unit(text: bytes, seconds: float | None) -> None:
    assert parse_timeout(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "text",
    [b"", b"soon", b"-1", b"1d", b"1e3", b"nan", b"1.", b"1 s", b"\xff", b"1\n", b"9" * 16,
     "٣".encode()],
)  # fmt: skip
def test_what_is_no_timeout_is_refused_by_its_value(text: bytes) -> None:
    with pytest.raises(BadTimeoutError, match=r"X-Request-Timeout is .*2500ms"):
        parse_timeout(text)


@given(st.floats(0, 1e6))
def test_a_timeout_that_is_written_is_read(seconds: float) -> None:
    assert parse_timeout(write_timeout(seconds)) == pytest.approx(max(0.001, seconds), abs=6e-4)


@pytest.mark.parametrize(
    "value", [b"", b"a b", b"a\nb", b"x" * 129, b"\xff", b'{"a"}', b"a,b", b"a\n"]
)
def test_request_ids_that_would_spoil_a_log_are_replaced(value: bytes) -> None:
    assert valid_request_id(value) is None
    replaced = request_id_of(value)
    assert replaced != value
    assert valid_request_id(replaced) == replaced


@given(st.from_regex(rb"[A-Za-z0-9._:@/+=-]{1,128}", fullmatch=True))
def test_other_request_ids_are_kept(value: bytes) -> None:
    assert request_id_of(value) == value


def test_new_ids_differ() -> None:
    assert len({new_request_id() for _ in range(3000)}) == 3000


def test_a_trace_goes_on_under_a_span_of_our_own() -> None:
    sent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    caller, own = trace_of(sent)
    assert caller is not None and own is not None
    assert own.trace_id == caller.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert own.span_id != caller.span_id == "b7ad6b7169203331"
    assert trace_of(None) == trace_of(b"nonsense") == (None, None)


@pytest.mark.parametrize(
    ("host", "mirrored"),
    [(b"a-shadow", True), (b"a.b-shadow:8080", True), (b"a", False), (b"a-shadow.b", False),
     (b"", False)],
)  # fmt: skip
def test_a_mirrored_copy_is_known_by_its_host(host: bytes, mirrored: bool) -> None:
    assert is_shadow_host(host) == mirrored
