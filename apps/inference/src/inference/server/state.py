"""What every protocol needs of the server: engine, models, settings, and the rules of a call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Send

from inference.batching.time_slicer import OFF_LOOP
from inference.engine.call import Answer, Call
from inference.engine.engine import Engine
from inference.engine.request import InferRequest
from inference.errors import (
    BadRequest,
    Cancelled,
    Forbidden,
    InferenceError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    SlowBody,
    TooLarge,
)
from inference.models.registry import Registry
from inference.models.served import ServedModel
from inference.repository.layout import NAME
from inference.server.bodies import Headers, codings, read_body, settle_repeated, unpack
from inference.server.exchange import json_bytes, respond
from inference.server.infer_paths import InferPaths
from inference.server.readiness import report_models
from inference.settings import InferenceSettings
from kit.http.content_coding import MOST_UNPACKED
from kit.http.probe_header import PROBE, is_believed
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
from kit.memory.budget import BusyError
from kit.oip.non_finite import HEADER as NON_FINITE
from kit.telemetry import logs
from kit.version import version_of

log = logs.get("inference.app")

HeaderMap = dict[bytes, bytes]
JSON = (b"content-type", b"application/json")


class ServerState:
    """The engine and everything around it that is free of any protocol."""

    def __init__(
        self, engine: Engine, registry: Registry, health: Health, settings: InferenceSettings
    ) -> None:
        self.engine = engine
        self.registry = registry
        self.health = health
        self.settings = settings
        self.paths = InferPaths(registry)
        self.version = version_of("slipway-inference", settings.source_revision)
        self.startup: list[Callable[[], Awaitable[None]]] = []
        self.shutdown: list[Callable[[], Awaitable[None]]] = []
        self._identity: Headers = [
            (name, value.encode("latin-1", "replace"))
            for name, value in (
                (b"x-slipway-variant", settings.release_name),
                (b"x-slipway-pod", settings.pod_name),
            )
            if value
        ]
        self.identity_lines = b"".join(b"%b: %b\r\n" % pair for pair in self._identity)
        self._traces = engine.outcomes.traces
        self._probe_key = settings.probe_key.get_secret_value()

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
        call.probe = self.is_probe(headers.get(PROBE))
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
            body = await self._unpack(body, coding, call)
        return body

    async def _unpack(self, body: bytes, coding: str, call: Call) -> bytes:
        """A compressed body's bytes; what they are at most is held, and then what they are."""
        engine = self.engine
        limit = engine.body_limit
        most = min(len(body) * MOST_UNPACKED, limit)
        try:
            async with engine.bodies.room(most, "the unpacked body") as held:
                if most < OFF_LOOP:
                    plain = unpack(body, coding, limit)
                else:
                    plain = await engine.decoding.thread(unpack, body, coding, limit)
                held.keep(0)
                engine.hold(call, len(plain))  # no more than was held, and nobody ran in between
        except BusyError as error:
            raise Overloaded(str(error)) from None
        return plain

    def is_probe(self, mark: bytes | None) -> bool:
        """Whether the verifier made the request: its header ``X-Slipway-Probe`` is believed."""
        return mark is not None and is_believed(mark, self._probe_key, time.time())

    def check_json_size(self, size: int, what: str = "JSON") -> None:
        """TooLarge where JSON, or what costs as much, would be parsed while probes wait."""
        if size > self.settings.max_json_bytes:
            raise TooLarge(
                f"{size} bytes of {what}: at most {self.settings.max_json_bytes} are accepted "
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
        headers: Headers = [JSON, (REQUEST_ID, call.request_id.encode()), *self._identity]
        if isinstance(error, Overloaded):
            headers.append((b"retry-after", b"%d" % error.retry_after))
        elif isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allow.encode()))
        if error.status >= 500:
            log.warning("request failed", status=error.status, reason=error.reason,
                        error=error.message, request_id=call.request_id)  # fmt: skip
        return headers, json_bytes({"error": error.message})

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
