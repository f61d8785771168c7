"""What is said of a request: headers of its answer, metrics, its span, the access log."""

from __future__ import annotations

import time
from time import monotonic

from starlette.types import Message

from kit.lifecycle.health import Health
from kit.telemetry import tracing
from kit.telemetry.spans import Spans
from proxy.http.request import Request
from proxy.services import Services


class Reports:
    """Reports requests."""

    def __init__(self, services: Services, health: Health) -> None:
        self._services = services
        self._settings = services.settings
        self._metrics = services.metrics
        self._health = health

    def dress(self, request: Request, message: Message) -> list[tuple[bytes, bytes]]:
        """The headers of an answer with the proxy's own."""
        request.status = message["status"]
        overhead = monotonic() - request.started - request.upstream_seconds
        dressed: list[tuple[bytes, bytes]] = [
            *message["headers"],
            (b"x-request-id", request.request_id),
            (b"x-slipway-overhead-ms", b"%.3f" % (overhead * 1000)),
            *request.extra,
        ]
        self._metrics.overhead.observe(overhead, request.route)
        if self._health.draining:
            dressed.append((b"connection", b"close"))
        return dressed

    def own_lines(self, request: Request, status: int) -> bytes:
        """The proxy's own header lines of an answer."""
        request.status = status
        overhead = monotonic() - request.started - request.upstream_seconds
        self._metrics.overhead.observe(overhead, request.route)
        lines = b"x-request-id: %b\r\nx-slipway-overhead-ms: %.3f\r\n" % (
            request.request_id,
            overhead * 1000,
        )
        for name, value in request.extra:
            lines += b"%b: %b\r\n" % (name, value)
        return lines

    def refused(self, kind: str, count: int) -> None:
        """What was refused unparsed within about a second, as one line of the access log."""
        route = "/v2/models/{model}/infer" if kind == "infer" else "other"
        self._metrics.failures.add(route, "overloaded", by=count)
        if self._settings.access_log != "off":
            self._services.access.write(route=route, status=429, error="overloaded", count=count)

    def write(self, request: Request) -> None:
        """Report a request that was answered or given up: metrics, span and access log."""
        services = self._services
        seconds = monotonic() - request.started
        status = request.status
        if request.probe:
            services.metrics.probes.add(request.route, str(status))
        else:
            services.metrics.requests.observe(
                seconds, request.route, request.method, str(status), request.model, request.variant
            )
            if request.error:
                services.metrics.failures.add(request.route, request.error)
        if services.spans is not None and request.traceparent.endswith(b"-01"):
            record_span(services.spans, request, seconds)
        if self._settings.access_log == "off" or (
            self._settings.access_log == "errors" and status < 400 and not request.error
        ):
            return
        services.access.write(
            method=request.method,
            path=request.raw_path.decode("latin-1"),
            route=request.route,
            status=status,
            seconds=round(seconds, 6),
            upstream_seconds=round(request.upstream_seconds, 6),
            client=request.client,
            caller=request.caller.name if request.caller else "",
            model=request.model,
            variant=request.variant,
            cache=request.cache,
            arm=request.arm.decode(),
            shadow=request.shadow,
            probe=bool(request.probe),
            error=request.error,
            bytes=request.body_bytes,
            request_id=request.request_id.decode(),
            trace_id=request.traceparent[3:35].decode(),
        )


def record_span(spans: Spans, request: Request, seconds: float) -> None:
    """A finished request as a server span, under OpenTelemetry's names."""
    context = tracing.parse_traceparent(request.traceparent.decode())
    if context is None:
        return
    end = time.time_ns()
    attributes: dict[str, str | int | float | bool] = {
        "http.request.method": request.method,
        "http.route": request.route,
        "http.response.status_code": request.status,
        "url.path": request.raw_path.decode("latin-1"),
        "client.address": request.client,
        "slipway.model": request.model,
        "slipway.variant": request.variant,
        "slipway.cache": request.cache,
        "slipway.request_id": request.request_id.decode(),
        "slipway.upstream_seconds": request.upstream_seconds,
    }
    spans.add(
        f"{request.method} {request.route}",
        context,
        parent=tracing.parse_traceparent((request.header(b"traceparent") or b"").decode("latin-1")),
        start_ns=end - round(seconds * 1e9),
        end_ns=end,
        attributes=attributes,
        error=request.error if request.status >= 500 else "",
    )
