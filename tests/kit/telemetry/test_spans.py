"""kit.telemetry.spans: off unless configured, and with the ids that logs and headers carry."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from kit.telemetry import spans
from kit.telemetry.tracing import TraceContext, new_trace

CALLER = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)


def test_it_is_off_unless_an_endpoint_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert spans.configure("test") is None
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert spans.configured(there)
    assert not spans.configured({**there, "OTEL_SDK_DISABLED": "true"})


def test_a_span_is_where_its_context_says() -> None:
    exporter = InMemorySpanExporter()
    sender = spans.configure("test", exporter=exporter, pod="p1")
    assert sender is not None
    child, alone = CALLER.child(), new_trace(sampled=True)
    times = {"start_ns": 1_000, "end_ns": 2_000}
    sender.add("a", child, parent=CALLER, attributes={"x": 1}, **times)
    sender.add("b", alone, parent=None, attributes={}, error="overloaded", **times)
    sender.add("c", new_trace(), parent=None, attributes={}, **times)  # not sampled
    sender.close()
    first, second = exporter.get_finished_spans()
    assert format(first.context.trace_id, "032x") == CALLER.trace_id
    assert format(first.context.span_id, "016x") == child.span_id
    assert first.parent is not None
    assert format(first.parent.span_id, "016x") == CALLER.span_id
    assert (first.start_time, first.end_time, first.kind) == (1_000, 2_000, SpanKind.SERVER)
    assert first.attributes == {"x": 1}
    assert first.resource.attributes["slipway.pod"] == "p1"
    assert format(second.context.trace_id, "032x") == alone.trace_id
    assert format(second.context.span_id, "016x") == alone.span_id
    assert second.status.status_code == StatusCode.ERROR
