# ruff: noqa: PLC0415 - the SDK takes 100 ms and 10 MB to import, so only who exports does
"""OpenTelemetry spans, off unless an OTLP endpoint is configured.

The variables are OpenTelemetry's own: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or
``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``) switches export on, ``OTEL_SERVICE_NAME``,
``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER`` and the rest mean what its documentation
says. Without an endpoint nothing of the SDK is even imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from kit.telemetry.tracing import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

Attributes = Mapping[str, str | int | float | bool]

_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class GivenIds:
    """Gives the SDK the ids that logs and headers already carry. One thread makes spans.

    It is an ``IdGenerator`` in all but ancestry, which would need the SDK to be imported.
    """

    next: TraceContext

    def generate_span_id(self) -> int:
        """The id of the span that is being made."""
        return int(self.next.span_id, 16)

    def generate_trace_id(self) -> int:
        """The id of its trace, where it has no parent."""
        return int(self.next.trace_id, 16)

    def is_trace_id_random(self) -> bool:
        """Ours are; a caller's we do not know."""
        return False


class Spans:
    """Sends finished spans. They are made after the fact, so a request carries no object."""

    def __init__(self, provider: TracerProvider, ids: GivenIds, scope: str) -> None:
        self._provider = provider
        self._ids = ids
        self._tracer = provider.get_tracer(scope)

    def add(
        self,
        name: str,
        context: TraceContext,
        *,
        parent: TraceContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        kind: Literal["server", "client", "internal", "consumer"] = "server",
        error: str = "",
    ) -> None:
        """One span that is over; times are nanoseconds since 1970.

        ``context`` is the span's own place in the trace, ``parent`` its caller's. A context
        that is not sampled is left out.
        """
        from opentelemetry import trace
        from opentelemetry.trace import SpanKind, Status, StatusCode

        if not context.sampled:
            return
        outer = None
        if parent is not None:
            remote = trace.SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(int(parent.sampled)),
            )
            outer = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        self._ids.next = context
        span = self._tracer.start_span(
            name,
            context=outer,
            kind=SpanKind[kind.upper()],
            attributes=dict(attributes),
            start_time=start_ns,
        )
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def configured(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether an OTLP endpoint is set and the SDK is not switched off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return any(environment.get(name) for name in _VARIABLES)


def configure(
    service: str, *, exporter: SpanExporter | None = None, **attributes: str
) -> Spans | None:
    """The sender of a service's spans, or None where no endpoint is configured.

    ``exporter`` takes the place of OTLP over HTTP, for tests; ``attributes`` (pod, release)
    describe the process.
    """
    if exporter is None and not configured():
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    described = {f"slipway.{name}": value for name, value in attributes.items() if value}
    resource = Resource.create({"service.name": service, **described})
    ids = GivenIds()
    provider = TracerProvider(
        resource=resource,
        shutdown_on_exit=False,
        id_generator=ids,  # type: ignore[arg-type]
    )
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    return Spans(provider, ids, f"slipway.{service}")
