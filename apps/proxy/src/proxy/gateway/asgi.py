"""The door: every request gets its identity and deadline here, and leaves its trace.

Plain ASGI. `/v2` and `/api` are passed through from here; everything else goes to FastAPI.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import cast
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from kit.http.probe_header import PROBE, is_believed
from kit.http.problem import MEDIA_TYPE, Problem
from kit.http.request_headers import (
    REQUEST_ID,
    REQUEST_TIMEOUT,
    TRACEPARENT,
    BadTimeoutError,
    is_shadow_host,
    request_id_of,
    trace_of,
)
from kit.lifecycle.health import Health
from kit.telemetry import logs, tracing
from kit.telemetry.spans import Spans
from proxy.config.backends import HttpBackend
from proxy.gateway import infer_v2
from proxy.gateway.api.pages import OPEN_PATHS
from proxy.gateway.websocket import pass_websocket
from proxy.http import deadline as deadlines
from proxy.http import headers, paths
from proxy.http.body import HungUp
from proxy.http.forward import Truncated, forward, forwarding_headers
from proxy.http.headers import BadHeadersError, Headers
from proxy.http.paths import BadPathError
from proxy.http.request import Request
from proxy.jobs.metrics import QueueWatch
from proxy.models.http import HttpModel
from proxy.policy import authentication
from proxy.policy.experiments import arm_of
from proxy.predictions import infer_cache
from proxy.server import overload, protocol
from proxy.server.overload import Overload
from proxy.services import START_FIX, Services

log = logs.get("proxy.gateway")

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
MOST_PARAMETERS = 256
"""Parameters of a query: each is read several times, by routes, rules and caches."""
CLIENT_CLOSED = 499  # nginx's number for a caller that hung up; it never reaches anybody

Handler = Callable[[Request], Awaitable[None]]


class Gateway:
    """The proxy as an ASGI application."""

    def __init__(self, services: Services, app: ASGIApp, health: Health) -> None:
        self.services = services
        self.settings = services.settings
        self.app = app
        self.health = health
        self._stages = [prefix.encode() for prefix in self.settings.stage_prefixes]
        self._probe_key = self.settings.probe_key.get_secret_value()
        self._in_flight = 0
        self.overload = Overload(
            target=self.settings.target_turn_ms / 1000,
            ceiling=self.settings.max_open_requests,
            report=self._report_refused,
        )
        services.metrics.gauge(
            "slipway_proxy_open_requests_limit",
            "Requests that may be open, so that the loop gets round to all of them in time.",
            (),
            lambda: [((), float(self.overload.admission.limit))],
        )
        services.metrics.gauge(
            "http_server_active_requests",
            "Requests under way.",
            (),
            lambda: [((), float(self._in_flight))],
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request, WebSocket, or the lifespan."""
        kind = scope["type"]
        if kind == "http":
            return self._http(scope, receive, send)
        if kind == "websocket":
            return self._websocket(scope, receive, send)
        return self._lifespan(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch: QueueWatch | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.services.start()
                    watch = self.services.watch_queues() if self.settings.redis_url else None
                except Exception as error:
                    self.health.give_up("start", f"the proxy cannot start: {error}", START_FIX)
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                if any(each.cache for each in self._http_backends()):
                    scope.get("state", {})[protocol.AT_ONCE] = self.at_once
                scope.get("state", {})[overload.KEY] = self.overload
                self.health.ready("start")
                await send({"type": "lifespan.startup.complete"})
            else:
                if watch is not None:
                    watch.stop()
                await self.services.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _http_backends(self) -> list[HttpBackend]:
        return [each for each in self.settings.backends.values() if isinstance(each, HttpBackend)]

    def at_once(self, cycle: RequestResponseCycle) -> bool:
        """Answer a request that was answered before, from memory and without a task for it.

        False, and nothing counted, where it takes more than that. Whatever is in the way (a
        malformed header, a missing scope, a used-up limit) is left to the longer way to say.
        """
        scope = cast(Scope, cycle.scope)
        if self.health.draining or scope["method"] != "POST":
            return False
        request = Request(scope, cast(Receive, cycle.receive), cast(Send, cycle.send), monotonic())
        request.raw_path = paths.without_stage(request.raw_path, self._stages)
        path = paths.model_path(request.raw_path)
        if path is None or path.verb != "infer":
            return False
        services = self.services
        try:
            self._identify(request)
            caller = services.auth.at_once(request.headers)
            if isinstance(caller, bytes) or request.probe:
                return False
            request.caller = caller
            request.admitted = True  # its limit is counted below, before anything is answered
            request.arm = arm_of(self.settings, request)
            authentication.allow(request, "predict", path.model)
            backend = services.models.choose(path.model, scope["query_string"], request.headers)
            if not isinstance(backend, HttpModel) or backend.settings.cache is None:
                return False
            body = bytes(cycle.body)
            sent = infer_cache.recall_sent(request, services.cache, backend, path.rest, body)
            if (
                sent is None
                or not protocol.may_write(cycle, sent.status)
                or not services.limits.at_once(request)
            ):
                return False
        except Problem:
            return False
        request.route = "/v2/models/{model}/infer"
        request.model, request.variant, request.cache = backend.name, sent.variant, "hit"
        request.body_bytes = len(body)
        lines = sent.lines + self._more(request, sent.status)
        protocol.write(cycle, sent.status, lines, sent.body)
        services.cache.count(backend.name, "hit")
        self._report(request)
        return True

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send, monotonic())
        request.bodies = self.services.bodies
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = self._dress(request, message)
            await send(message)

        request.send = answer
        cycle = scope.get(protocol.KEY)
        if cycle is not None:

            def write_whole(status: int, passed: Headers, body: bytes) -> bool:
                nonlocal begun
                if self.health.draining or not protocol.may_write(cycle, status):
                    return False
                begun = True
                lines = protocol.lines_of(passed) + self._more(request, status)
                protocol.write(cycle, status, lines, body)
                return True

            request.write_whole = write_whole
        self._in_flight += 1
        try:
            await self._serve(request)
        except Problem as problem:
            request.error = problem.type
            if not begun:
                await self._problem(request, problem)
        except HungUp:
            request.status = CLIENT_CLOSED
            request.error = "caller-hung-up"
        except Truncated:
            pass  # uvicorn closes a connection whose answer was left unfinished
        except Exception as error:
            log.error("request failed", path=scope["path"], exc_info=error)
            request.error = "internal"
            if not begun:
                await self._problem(
                    request, Problem(500, "internal", "the proxy failed; its log says why")
                )
        finally:
            self._in_flight -= 1
            request.let_go()
            self._report(request)
            # Break the circles: what leaves none is freed at once, not by the collector's walks.
            request.send = send
            request.write_whole = None
            scope.pop(protocol.KEY, None)

    async def _serve(self, request: Request) -> None:
        if self._stages:
            whole = request.raw_path
            request.raw_path = paths.without_stage(whole, self._stages)
            taken = len(whole) - len(request.raw_path)
            request.prefix = whole[:taken].decode("latin-1") if taken > 0 else ""
        self._identify(request)
        raw = request.raw_path
        if raw.startswith(b"/v2") and (len(raw) == 3 or raw[3] == 0x2F):
            await self._v2(request)
        elif raw.startswith(b"/api/"):
            await self._api(request)
        else:
            await self._application(request)

    def _identify(self, request: Request) -> None:
        """Its id, trace, client and deadline; Problem 400 for headers that are none."""
        settings = self.settings
        request.request_id = request_id_of(request.header(REQUEST_ID))
        request.traceparent = next_traceparent(
            request.header(TRACEPARENT), sampled=self.services.spans is not None
        )
        peer = request.scope.get("client") or ("", 0)
        request.client, request.forwarded = headers.client_address(
            peer[0], request.joined(b"x-forwarded-for"), settings.trusted_hops
        )
        if request.scope["query_string"].count(b"&") >= MOST_PARAMETERS and not (
            request.raw_path.startswith(b"/api/")  # not read here
        ):
            raise Problem(
                400,
                "bad-request",
                f"the query has more than {MOST_PARAMETERS} parameters: send fewer",
                headers={"connection": "close"},
            )
        try:
            request.check_headers()
            timeout = deadlines.parse(
                request.header(REQUEST_TIMEOUT),
                default=settings.timeout_seconds,
                longest=settings.max_timeout_seconds,
            )
        except BadHeadersError as error:
            raise Problem(400, "bad-request", str(error), headers={"connection": "close"}) from None
        except BadTimeoutError as error:
            raise Problem(400, "bad-timeout", str(error)) from None
        request.deadline = request.started + timeout
        request.shadow = is_shadow_host(request.header(b"host") or b"")
        probe = request.header(PROBE)
        if probe is not None and is_believed(probe, self._probe_key, time.time()):
            request.probe = probe

    async def _admit(self, request: Request) -> None:
        services = self.services
        found = services.auth.at_once(request.headers)
        if isinstance(found, bytes):  # a token that is not known yet
            found = await services.auth.caller(request.headers, request.deadline)
        request.caller = found
        request.arm = arm_of(self.settings, request)
        if not services.limits.at_once(request):
            await services.limits.admit(request)
        request.admitted = True

    async def _v2(self, request: Request) -> None:
        request.route = "/v2"
        path = paths.model_path(request.raw_path)
        if path is None:
            await infer_v2.answer(self.services, request)
            return
        request.route = "/v2/models/{model}" + (f"/{path.verb}" if path.verb else "")
        await self._admit(request)
        authentication.allow(request, "predict", path.model)
        backend = await self.services.models.find_for(
            path.model, request.scope["query_string"], request.headers
        )
        request.model = backend.name
        await infer_v2.pass_on(self.services, request, backend, path)

    async def _api(self, request: Request) -> None:
        request.route = "/api/{path}"
        try:
            raw = paths.check(request.raw_path)
        except BadPathError as error:
            raise Problem(400, "bad-path", str(error)) from None
        await self._admit(request)
        key, rest, repeatable = self._upstream(request, raw)
        upstream = self.settings.upstreams[key]
        request.route = f"/api/{key}/{{path}}" if key else "/api/{path}"
        query = request.scope["query_string"]
        target = rest + (b"?" + query if query else b"")
        more = forwarding_headers(request)
        dropped = headers.DROPPED_WITH_CREDENTIALS
        if upstream.forward_authorization:
            dropped = headers.DROPPED
        await forward(
            request,
            self.services.upstreams[key],
            target,
            limit=self.services.body_limit,
            margin=self.settings.hop_margin_seconds,
            dropped=dropped,
            repeatable=repeatable,
            now=monotonic(),
            more=more,
            idle_seconds=upstream.idle_seconds,
            slowest=self.settings.upload_bytes_per_second,
        )

    def _upstream(self, request: Request, raw: bytes) -> tuple[str, bytes, bool]:
        below = raw.removeprefix(b"/api/")
        try:
            key = paths.upstream_key(below, self.settings.upstreams)
        except BadPathError as error:
            raise Problem(400, "bad-path", str(error)) from None
        if key is None:
            raise Problem(404, "unknown-upstream", "no upstream is configured for this path")
        upstream = self.settings.upstreams[key]
        rest = b"/" + below[len(key) :].lstrip(b"/") if key else b"/" + below
        if upstream.paths and not any(
            rest == prefix.encode() or rest.startswith(prefix.rstrip("/").encode() + b"/")
            for prefix in upstream.paths
        ):
            raise Problem(404, "unknown-upstream", f"{key} is not open at this path")
        method = "GET" if request.scope["type"] == "websocket" else request.method
        if method not in upstream.methods:
            allowed = ", ".join(upstream.methods)
            raise Problem(
                405, "method-not-allowed", f"{key} takes {allowed}", headers={"allow": allowed}
            )
        authentication.allow(request, "api", upstream.scope or key)
        return key, rest if upstream.strip_prefix else raw, method in IDEMPOTENT

    async def _application(self, request: Request) -> None:
        raw = request.raw_path
        scope = request.scope
        try:
            paths.check(raw)
        except BadPathError as error:
            raise Problem(400, "bad-path", str(error)) from None
        scope["path"] = headers_path(raw)
        tracing.current.set(tracing.parse_traceparent(request.traceparent.decode()))
        tracing.request_id.set(request.request_id.decode())
        scope["slipway"] = request
        if scope["path"] not in OPEN_PATHS:
            await self._admit(request)
        if request.method == "HEAD" and not scope["path"].endswith("/events"):
            scope = {**scope, "method": "GET"}  # the server sends no body: it has its own scope
        try:
            await self.app(scope, request.receive, request.send)
        finally:
            route = scope.get("route")
            request.route = getattr(route, "path", request.route)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send, monotonic())
        try:
            request.request_id = request_id_of(request.header(REQUEST_ID))
            request.traceparent = tracing.new_trace().traceparent().encode()
            request.deadline = request.started + self.settings.timeout_seconds
            peer = scope.get("client") or ("", 0)
            request.client, request.forwarded = headers.client_address(
                peer[0], request.joined(b"x-forwarded-for"), self.settings.trusted_hops
            )
            try:
                request.check_headers()
                raw = paths.check(paths.without_stage(request.raw_path, self._stages))
            except (BadHeadersError, BadPathError) as error:
                raise Problem(400, "bad-request", str(error)) from None
            if not raw.startswith(b"/api/"):
                raise Problem(404, "not-found", "WebSockets are served below /api/")
            await self._admit(request)
            key, rest, _ = self._upstream(request, raw)
            request.route = f"/api/{key}/{{path}}"
            await pass_websocket(self.services, request, key, rest)
        except Problem as problem:
            request.error = problem.type
            request.status = problem.status
            await refuse_websocket(send, scope, problem, request.request_id.decode())
        finally:
            self._report(request)

    def _dress(self, request: Request, message: Message) -> list[tuple[bytes, bytes]]:
        request.status = message["status"]
        overhead = monotonic() - request.started - request.upstream_seconds
        dressed: list[tuple[bytes, bytes]] = [
            *message["headers"],
            (b"x-request-id", request.request_id),
            (b"x-slipway-overhead-ms", b"%.3f" % (overhead * 1000)),
            *request.extra,
        ]
        self.services.metrics.overhead.observe(overhead, request.route)
        if self.health.draining:
            dressed.append((b"connection", b"close"))
        return dressed

    def _more(self, request: Request, status: int) -> bytes:
        """The proxy's own header lines of an answer."""
        request.status = status
        overhead = monotonic() - request.started - request.upstream_seconds
        self.services.metrics.overhead.observe(overhead, request.route)
        lines = b"x-request-id: %b\r\nx-slipway-overhead-ms: %.3f\r\n" % (
            request.request_id,
            overhead * 1000,
        )
        for name, value in request.extra:
            lines += b"%b: %b\r\n" % (name, value)
        return lines

    async def _problem(self, request: Request, problem: Problem) -> None:
        if request.raw_path.startswith(b"/v2"):
            problem.extra.setdefault("error", problem.detail)  # where the protocol's clients look
        body = problem.body(request_id=request.request_id.decode())
        start: Message = {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", b"no-store"),
                *(
                    (name.lower().encode(), value.encode())
                    for name, value in problem.headers.items()
                ),
            ],
        }
        await request.send(start)
        await request.send({"type": "http.response.body", "body": body})

    def _report_refused(self, kind: str, count: int) -> None:
        """What was refused unparsed within about a second, as one line of the access log."""
        route = "/v2/models/{model}/infer" if kind == "infer" else "other"
        self.services.metrics.failures.add(route, "overloaded", by=count)
        if self.settings.access_log != "off":
            self.services.access.write(route=route, status=429, error="overloaded", count=count)

    def _report(self, request: Request) -> None:
        services = self.services
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
        if self.settings.access_log == "off" or (
            self.settings.access_log == "errors" and status < 400 and not request.error
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


def headers_path(raw: bytes) -> str:
    """A checked raw path as the routing table wants it, decoded."""
    return unquote(raw.decode("ascii"))


def next_traceparent(sent: bytes | None, *, sampled: bool) -> bytes:
    """The traceparent for the next hop: a child of the caller's trace, or a new one.

    ``sampled`` says whether a new one is recorded.
    """
    _, own = trace_of(sent)
    if own is not None:
        return own.traceparent().encode()
    flags = b"01" if sampled else b"00"
    return b"00-%b-%b-%b" % (tracing.random_hex.take(32), tracing.random_hex.take(16), flags)


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


async def refuse_websocket(send: Send, scope: Scope, problem: Problem, request_id: str) -> None:
    """Refuse a handshake with an HTTP answer where the server can send one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": problem.detail[:120]})
        return
    body = problem.body(request_id=request_id)
    await send(
        {
            "type": "websocket.http.response.start",
            "status": problem.status,
            "headers": [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id.encode()),
            ],
        }
    )
    await send({"type": "websocket.http.response.body", "body": body})
