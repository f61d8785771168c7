"""A caller's trace is taken up when it is well formed, and only then."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.telemetry import tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_traceparent_is_read_and_passed_on_with_a_span_of_our_own() -> None:
    context = tracing.parse_traceparent(f"00-{TRACE}-{SPAN}-01")
    assert context == tracing.TraceContext(TRACE, SPAN, sampled=True)
    child = context.child()
    assert child.trace_id == TRACE
    assert child.span_id != SPAN
    assert tracing.parse_traceparent(child.traceparent()) == child


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
    ],
)
def test_what_the_standard_calls_invalid_is_no_trace(header: str | None) -> None:
    assert tracing.parse_traceparent(header) is None


def test_a_later_version_may_say_more() -> None:
    assert tracing.parse_traceparent(f"01-{TRACE}-{SPAN}-00-more") == tracing.TraceContext(
        TRACE, SPAN, sampled=False
    )


@given(st.text(max_size=80))
def test_no_header_breaks_the_parser(header: str) -> None:
    context = tracing.parse_traceparent(header)
    assert context is None or tracing.parse_traceparent(context.traceparent()) == context


def test_a_new_trace_is_well_formed() -> None:
    fresh = tracing.new_trace(sampled=True)
    assert tracing.parse_traceparent(fresh.traceparent()) == fresh
