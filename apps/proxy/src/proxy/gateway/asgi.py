"""The gateway: every request gets its identity and deadline here, and is reported at its end.

Plain ASGI. `/v2` and `/api` are passed through from here; everything else goes to FastAPI.
"""

from __future__ import annotations

from collections.abc import Awaitable
from time import monotonic
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kit.http.problem import Problem
from kit.http.request_headers import REQUEST_ID, request_id_of
from kit.lifecycle.health import Health
from kit.telemetry import logs, tracing
from proxy.config.backends import HttpBackend
from proxy.gateway import infer_v2, upstreams
from proxy.gateway.api.pages import OPEN_PATHS
from proxy.gateway.cached_answers import CachedAnswers
from proxy.gateway.identity import Identity
from proxy.gateway.problems import refuse_websocket, send_problem
from proxy.gateway.report import Reports
from proxy.gateway.websocket import pass_websocket
from proxy.http import headers, paths
from proxy.http.body import HungUp
from proxy.http.forward import Truncated
from proxy.http.headers import BadHeadersError, Headers
from proxy.http.paths import BadPathError
from proxy.http.request import Request
from proxy.jobs.metrics import QueueWatch
from proxy.policy import authentication
from proxy.policy.experiments import arm_of
from proxy.server import overload, protocol
from proxy.server.overload import Overload
from proxy.services import START_FIX, Services

log = logs.get("proxy.gateway")

CLIENT_CLOSED = 499  # nginx's number for a caller that hung up; it never reaches anybody


class Gateway:
    """The proxy as an ASGI application."""

    def __init__(self, services: Services, app: ASGIApp, health: Health) -> None:
        self.services = services
        self.settings = services.settings
        self.app = app
        self.health = health
        self._identity = Identity(self.settings, sampled=services.spans is not None)
        self._reports = Reports(services, health)
        self._in_flight = 0
        self.overload = Overload(
            target=self.settings.target_turn_ms / 1000,
            ceiling=self.settings.max_open_requests,
            report=self._reports.refused,
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
                    scope.get("state", {})[protocol.FROM_MEMORY] = CachedAnswers(
                        self.services, self.health, self._identity, self._reports
                    )
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

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send, monotonic())
        request.bodies = self.services.bodies
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = self._reports.dress(request, message)
            await send(message)

        request.send = answer
        cycle = scope.get(protocol.KEY)
        if cycle is not None:

            def write_complete(status: int, passed: Headers, body: bytes) -> bool:
                nonlocal begun
                if self.health.draining or not protocol.may_write(cycle, status):
                    return False
                begun = True
                lines = protocol.lines_of(passed) + self._reports.own_lines(request, status)
                protocol.write(cycle, status, lines, body)
                return True

            request.write_complete = write_complete
        self._in_flight += 1
        try:
            await self._serve(request)
        except Problem as problem:
            request.error = problem.type
            if not begun:
                await send_problem(request, problem)
        except HungUp:
            request.status = CLIENT_CLOSED
            request.error = "caller-hung-up"
        except Truncated:
            pass  # uvicorn closes a connection whose answer was left unfinished
        except Exception as error:
            log.error("request failed", path=scope["path"], exc_info=error)
            request.error = "internal"
            if not begun:
                await send_problem(
                    request, Problem(500, "internal", "the proxy failed; its log says why")
                )
        finally:
            self._in_flight -= 1
            request.let_go()
            self._reports.write(request)
            # Break the reference cycles: the request is then freed without the garbage collector.
            request.send = send
            request.write_complete = None
            scope.pop(protocol.KEY, None)

    async def _serve(self, request: Request) -> None:
        self._identity.strip_stage(request)
        self._identity.read(request)
        raw = request.raw_path
        if raw.startswith(b"/v2") and (len(raw) == 3 or raw[3] == 0x2F):
            await self._v2(request)
        elif raw.startswith(b"/api/"):
            await self._api(request)
        else:
            await self._application(request)

    async def _admit(self, request: Request) -> None:
        services = self.services
        found = services.auth.known_caller(request.headers)
        if isinstance(found, bytes):  # a token that is not known yet
            found = await services.auth.caller(request.headers, request.deadline)
        request.caller = found
        request.arm = arm_of(self.settings, request)
        if not services.limits.admit_from_lease(request):
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
        await upstreams.pass_on(self.services, request, raw)

    async def _application(self, request: Request) -> None:
        raw = request.raw_path
        scope = request.scope
        try:
            paths.check(raw)
        except BadPathError as error:
            raise Problem(400, "bad-path", str(error)) from None
        scope["path"] = unquote(raw.decode("ascii"))
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
                self._identity.strip_stage(request)
                raw = paths.check(request.raw_path)
            except (BadHeadersError, BadPathError) as error:
                raise Problem(400, "bad-request", str(error)) from None
            if not raw.startswith(b"/api/"):
                raise Problem(404, "not-found", "WebSockets are served below /api/")
            await self._admit(request)
            key, rest, _ = upstreams.upstream_of(self.settings, request, raw)
            request.route = f"/api/{key}/{{path}}"
            await pass_websocket(self.services, request, key, rest)
        except Problem as problem:
            request.error = problem.type
            request.status = problem.status
            await refuse_websocket(send, scope, problem, request.request_id.decode())
        finally:
            self._reports.write(request)
