"""The ASGI application: one look-up for the path that is hot, plain routing for the rest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from inference.engine.engine import Answer, Call, Engine
from inference.errors import (
    BadRequest,
    Cancelled,
    Forbidden,
    InferenceError,
    MethodNotAllowed,
    ModelError,
    NotFound,
    Overloaded,
    RepositoryError,
    SlowBody,
    TooLarge,
    Unavailable,
)
from inference.models import onnx_model, triton_config
from inference.models.registry import Registry, ServedModel, json_bytes
from inference.protocols import openapi, sagemaker, unsupported, v1
from inference.protocols.rest_v2 import InferRequest, encode, parse
from inference.repository.layout import NAME, version_order
from inference.server.http import (
    Exchange,
    Headers,
    codings,
    content_length,
    hung_up,
    read_body,
    respond,
    settle_repeated,
)
from inference.server.loading import report_models
from inference.settings import InferenceSettings
from kit.http.probe_header import PROBE
from kit.http.request_headers import (
    REQUEST_ID,
    REQUEST_TIMEOUT,
    SHADOW,
    TRACEPARENT,
    BadTimeoutError,
    is_host,
    is_shadow_host,
    parse_timeout,
    request_id_of,
)
from kit.lifecycle.health import Health
from kit.oip.non_finite import HEADER as NON_FINITE
from kit.telemetry import logs
from kit.version import version_of

if TYPE_CHECKING:
    from inference.protocols.grpc.server import GrpcServer

log = logs.get("inference.app")

Target = tuple[str, str | None]
HeaderMap = dict[bytes, bytes]

SERVER_NAME = "slipway-inference"
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
]
SHORT_WAY = 1024 * 1024
"""Bytes of body up to which a request may take the short way of :mod:`inference.fast_infer`."""
_JSON = (b"content-type", b"application/json")


class InferenceApp:
    """Open Inference Protocol v2, V1 and SageMaker's contract over one engine."""

    def __init__(
        self, engine: Engine, registry: Registry, health: Health, settings: InferenceSettings
    ) -> None:
        self.engine = engine
        self.registry = registry
        self.health = health
        self.settings = settings
        self._identity: Headers = [
            (name, value.encode("latin-1", "replace"))
            for name, value in (
                (b"x-slipway-variant", settings.release_name),
                (b"x-slipway-pod", settings.pod_name),
            )
            if value
        ]
        self.identity_lines = b"".join(b"%b: %b\r\n" % pair for pair in self._identity)
        self.short_way_limit = min(SHORT_WAY, settings.max_json_bytes, engine.body_limit)
        self.version = version_of("slipway-inference", settings.source_revision)
        self._traces = engine.traces
        self._hot: dict[str, Target] = {}
        self._hot_generation = -1
        self._served: dict[bytes, ServedModel] = {}
        self._served_generation = -1
        self.grpc: GrpcServer | None = None
        self.startup: list[Callable[[], Awaitable[None]]] = []
        self.shutdown: list[Callable[[], Awaitable[None]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            if scope["method"] == "POST":
                hot = self.hot(scope["raw_path"].decode("latin-1"))
                if hot is not None:
                    await self._infer(scope, receive, send, hot[0], hot[1])
                    return
            await self._route(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                for step in self.startup:
                    await step()
                await send({"type": "lifespan.startup.complete"})
            else:
                for step in reversed(self.shutdown):
                    await step()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def hot(self, path: str) -> Target | None:
        """Model and version of an infer path there is: one look-up for most requests."""
        if self._hot_generation != self.registry.generation:
            self._hot = {}
            for name, entry in self.registry.entries.items():
                self._hot[f"/v2/models/{name}/infer"] = (name, None)
                for version in entry.serving:
                    self._hot[f"/v2/models/{name}/versions/{version}/infer"] = (name, version)
            self._hot_generation = self.registry.generation
        return self._hot.get(path)

    def served_at(self, path: bytes) -> ServedModel | None:
        """The version behind an infer path, as its bytes stand in a request line."""
        if self._served_generation != self.registry.generation:
            self._served = {}
            self.hot("")
            for hot_path, (name, version) in self._hot.items():
                with contextlib.suppress(InferenceError):  # it has no version that serves
                    self._served[hot_path.encode()] = self.registry.get(name, version)
            self._served_generation = self.registry.generation
        return self._served.get(path)

    # -- inference ---------------------------------------------------------------------------

    async def _infer(
        self, scope: Scope, receive: Receive, send: Send, name: str, version: str | None
    ) -> None:
        """POST …/infer, the path that is hot."""
        call = Call("rest", time.monotonic())
        served: ServedModel | None = None
        request: InferRequest | None = None
        try:
            headers = self.read_headers(scope["headers"], call)
            self.engine.check_full(self.registry.get(name, version))
            body = await self.body(receive, headers, call)
            served = self.engine.admit(self.registry.get(name, version), call)
            try:
                json_length = content_length(
                    headers.get(b"inference-header-content-length"),
                    "Inference-Header-Content-Length",
                )
                self.check_json_size(len(body) if json_length is None else json_length)
                document = body if json_length is None else body[:json_length]
                request = await self.engine.parse(
                    len(body), document, parse, body, json_length, served
                )
                call.hang_up = lambda: hung_up(receive)
                answer = await self.engine.infer(served, request, call)
                out, out_json_length = encode(served, request, answer.outputs)
            finally:
                self.engine.leave(served)
        except Exception as error:
            await self.refuse(send, self.engine.failed(served, call, error, request), call)
            return
        finally:
            self.engine.let_go(call)
        answer_headers = self.answer_headers(served, answer, call)
        answer_headers += self.non_finite_headers(request)
        if out_json_length is None:
            answer_headers.append(_JSON)
        else:
            answer_headers.append((b"content-type", b"application/octet-stream"))
            answer_headers.append((b"inference-header-content-length", b"%d" % out_json_length))
        await respond(send, 200, answer_headers, out)
        self.engine.succeeded(served, request, call, answer)

    def read_headers(self, pairs: list[tuple[bytes, bytes]], call: Call) -> HeaderMap:
        """The headers by name, and what they say about the call.

        The first of a name counts; several lines of Content-Encoding are one list. BadRequest
        for two of what may stand once, and for a Host that is none.
        """
        headers: HeaderMap = dict(reversed(pairs))
        call.request_id = request_id_of(headers.get(REQUEST_ID)).decode()
        if len(headers) != len(pairs):
            settle_repeated(headers, pairs)
        timeout = headers.get(REQUEST_TIMEOUT)
        if timeout is not None:
            try:
                call.timeout = parse_timeout(timeout)
            except BadTimeoutError as error:
                raise BadRequest(str(error)) from None
        host = headers.get(b"host", b"")
        if not is_host(host):
            shown = host[:80].decode("latin-1")
            raise BadRequest(f"Host is {shown!r}: it must be a host name with an optional port")
        call.follow(headers.get(TRACEPARENT), starts=self._traces)
        call.mirrored = SHADOW in headers or is_shadow_host(host)
        call.probe = self.engine.is_probe(headers.get(PROBE))
        return headers

    async def body(self, receive: Receive, headers: HeaderMap, call: Call) -> bytes:
        """The request's body, within its limit and the request's time."""
        undone = codings(headers.get(b"content-encoding"))  # refused before the body is read
        body = await read_body(
            receive,
            self.engine.body_limit,
            seconds=call.started + self.engine.timeout(call) - time.monotonic(),
            length=headers.get(b"content-length"),
            hold=lambda size: self.engine.hold(call, size),
        )
        for coding in undone if body else ():
            body = await self.engine.unpack(body, coding, call)
        return body

    def check_json_size(self, size: int, what: str = "JSON") -> None:
        """TooLarge where JSON, or what costs as much, would be parsed while probes wait."""
        if size > self.settings.max_json_bytes:
            raise TooLarge(
                f"{size} bytes of {what}: at most {self.settings.max_json_bytes} are taken "
                "(max_json_bytes); send the tensors as binary data"
            )

    def answer_headers(self, served: ServedModel, answer: Answer, call: Call) -> Headers:
        """Who answered, and where its time went."""
        return [
            (b"x-slipway-model", served.name.encode()),
            (b"x-slipway-model-version", served.version.encode()),
            *self._identity,
            (b"x-slipway-queue-ms", b"%.3f" % (answer.queue * 1000)),
            (b"x-slipway-compute-ms", b"%.3f" % (answer.compute * 1000)),
            (REQUEST_ID, call.request_id.encode()),
        ]

    def non_finite_headers(self, request: InferRequest) -> Headers:
        """How many values of the answer JSON could not say, if there are any."""
        return [(NON_FINITE, b"%d" % request.non_finite)] if request.non_finite else []

    async def refuse(self, send: Send, error: InferenceError, call: Call) -> None:
        """The protocol's error body, with the status the error has."""
        if isinstance(error, Cancelled):
            return  # nobody is there to read it
        headers, body = self.refusal(error, call)
        if isinstance(error, SlowBody):
            headers.append((b"connection", b"close"))  # the rest of the body may never come
        await respond(send, error.status, headers, body)

    def refusal(self, error: InferenceError, call: Call) -> tuple[Headers, bytes]:
        """Headers and body of an error."""
        headers: Headers = [_JSON, (REQUEST_ID, call.request_id.encode()), *self._identity]
        if isinstance(error, Overloaded):
            headers.append((b"retry-after", b"%d" % error.retry_after))
        elif isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allow.encode()))
        if error.status >= 500:
            log.warning("request failed", status=error.status, reason=error.reason,
                        error=error.message, request_id=call.request_id)  # fmt: skip
        return headers, json_bytes({"error": error.message})

    # -- everything else ---------------------------------------------------------------------

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call("rest", time.monotonic())
        try:
            headers = self.read_headers(scope["headers"], call)
            await self._dispatch(Exchange(scope, receive, send, headers, call))
        except InferenceError as error:
            await self.refuse(send, error, call)
        except RepositoryError as error:
            await self.refuse(send, Unavailable(str(error)), call)
        except ModelError as error:
            await self.refuse(send, BadRequest(str(error)), call)
        except Exception as error:
            await self.refuse(send, self.engine.failed(None, call, error), call)
        finally:
            self.engine.let_go(call)

    async def _dispatch(self, exchange: Exchange) -> None:
        raw = exchange.scope.get("raw_path") or exchange.scope["path"].encode()
        parts = [unquote(part) for part in raw.decode("latin-1").split("/")[1:]]
        match parts:
            case [""]:  # KServe's V1: the server is alive
                exchange.need("GET")
                await exchange.json({"status": "alive"})
            case ["v2"] | ["v2", ""]:
                exchange.need("GET")
                await exchange.json(self.server_metadata())
            case ["v2", "health", "live"]:
                exchange.need("GET")
                status, _ = self.health.liveness()
                await exchange.json({"live": status == 200}, status)
            case ["v2", "health", "ready"]:
                exchange.need("GET")
                status, why = self.health.readiness()
                document = {"ready": status == 200} | ({} if status == 200 else {"error": str(why)})
                await exchange.json(document, status)
            case ["v2", "models", "stats"]:
                exchange.need("GET")
                await exchange.json(self.statistics_document())
            case ["v2", "models", name, *rest]:
                await self._model(exchange, name, rest)
            case ["v2", "repository", repository, "index"]:
                raise NotFound(
                    f"repository {repository!r} is unknown: there is one, without a name"
                )
            case ["v2", "repository", "index"]:
                exchange.need("POST")
                await exchange.json(await self._index(exchange))
            case ["v2", "repository", "models", name, "load" | "unload" as verb]:
                exchange.need("POST")
                await self._control(exchange, name, verb)
                await exchange.json({})
            case ["v1", "models", *rest]:
                await v1.handle(self, exchange, rest)
            case ["ping"]:
                exchange.need("GET")
                status, why = self.health.readiness()
                await exchange.json({} if status == 200 else {"error": str(why)}, status)
            case ["openapi.json"]:
                exchange.need("GET")
                await exchange.json(openapi.document(self.version))
            case ["invocations"]:
                exchange.need("POST")
                await sagemaker.handle(self, exchange)
            case _:
                raise unsupported.not_served(parts) or exchange.no_such_path()

    async def _model(self, exchange: Exchange, name: str, rest: list[str]) -> None:
        version: str | None = None
        if rest[:1] == ["versions"] and len(rest) >= 2:
            version, rest = rest[1], rest[2:]
        match rest:
            case [] | [""]:
                exchange.need("GET")
                await exchange.json(self.model_metadata(name, version))
            case ["ready"]:
                exchange.need("GET")
                served = self.registry.get(name, version)
                await exchange.json({"name": served.name, "version": served.version, "ready": True})
            case ["stats"]:
                exchange.need("GET")
                self.registry.get(name, version)
                await exchange.json(self.statistics_document(name, version))
            case ["config"]:
                exchange.need("GET")
                await exchange.json(self.model_config(name, version))
            case ["infer"]:
                exchange.need("POST")
                await self._infer(exchange.scope, exchange.receive, exchange.send, name, version)
            case _:
                parts = ["v2", "models", name, *rest]
                raise unsupported.not_served(parts) or exchange.no_such_path()

    def server_metadata(self) -> dict[str, Any]:
        """The protocol's server metadata."""
        return {
            "name": SERVER_NAME,
            "version": self.version,
            "extensions": EXTENSIONS,
            "properties": {
                "onnxruntime": onnx_model.VERSION,
                "revision": self.settings.source_revision or "unknown",
            },
        }

    def model_metadata(self, name: str, version: str | None) -> dict[str, Any]:
        """The protocol's model metadata; ``version`` is the one the tensors are those of."""
        served = self.registry.get(name, version)
        versions = sorted(self.registry.entries[name].serving, key=version_order)
        return served.metadata_document | {"versions": versions, "version": served.version}

    def model_config(self, name: str, version: str | None) -> dict[str, Any]:
        """The model configuration extension's answer."""
        return triton_config.document(self.registry.get(name, version), self.settings)

    def statistics_document(self, name: str = "", version: str | None = None) -> dict[str, Any]:
        """The statistics extension's answer."""
        return {
            "model_stats": [
                statistics.document()
                for statistics in self.registry.statistics
                if name in ("", statistics.model) and version in (None, statistics.version)
            ]
        }

    async def _index(self, exchange: Exchange) -> list[dict[str, str]]:
        asked = await self.json_body(exchange)
        ready = asked.get("ready", False)
        if type(ready) is not bool:
            raise BadRequest("ready must be true or false")
        rows = await self.registry.index()
        return [row for row in rows if not ready or row["state"] == "READY"]

    async def _control(self, exchange: Exchange, name: str, verb: str) -> None:
        asked = await self.json_body(exchange)
        if verb == "load":
            unsupported.check_load(asked.get("parameters", {}))
            await self.load(name)
        else:
            unsupported.check_unload(asked.get("parameters", {}))
            await self.unload(name)

    async def load(self, name: str) -> None:
        """Load a model because a caller says so; readiness follows what came of it."""
        self._allow_control(name)
        try:
            await self.registry.load(name)
        finally:
            self._report()

    async def unload(self, name: str) -> None:
        """Unload a model because a caller says so."""
        self._allow_control(name)
        await self.registry.unload(name)
        self._report()

    def _report(self) -> None:
        if self.registry.complete:  # till then whoever loads the rest says when it is ready
            report_models(self.registry, self.health, self.settings)

    def _allow_control(self, name: str) -> None:
        """Forbidden unless the operator lets callers load and unload models."""
        if not self.settings.repository_control:
            raise Forbidden(
                "loading and unloading by callers is switched off: "
                "set INFERENCE_REPOSITORY_CONTROL=true to allow it"
            )
        if not NAME.match(name):
            raise NotFound(f"model {name!r} is unknown")

    async def json_body(self, exchange: Exchange) -> dict[str, Any]:
        """An optional JSON object."""
        body = await self.body(exchange.receive, exchange.headers, exchange.call)
        if not body:
            return {}
        self.check_json_size(len(body))
        return await self.engine.parse(len(body), body, v1.load_object, body)
