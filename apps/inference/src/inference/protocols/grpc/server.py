"""The protocol over gRPC, with the standard health and reflection services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from inference.batching.time_slicer import by_size
from inference.engine.call import Call
from inference.engine.outcomes import failure_of
from inference.engine.request import InferRequest
from inference.errors import (
    BadRequest,
    Cancelled,
    InferenceError,
    ModelError,
    NotFound,
    Overloaded,
    RepositoryError,
    Unavailable,
)
from inference.models.served import ServedModel
from inference.protocols import unsupported
from inference.protocols.grpc.messages import decode, model_named_first, parse, plain, written
from inference.protocols.grpc.receiving import Receiving
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from inference.server import documents
from inference.server.state import ServerState
from kit.http.request_headers import BadTimeoutError, parse_timeout, request_id_of
from kit.telemetry import logs

log = logs.get("inference.grpc")

SERVICE = "inference.GRPCInferenceService"

T = TypeVar("T")
LARGEST_TOGETHER = 16
"""Messages of the largest size that may arrive at the same time, where the settings say nothing."""
COPIES = 4
"""Times that a message is in memory while it is read.

As the library has it, as bytes, as a message of Protocol Buffers, and as tensors."""
MOST_STREAMS = 128
"""Calls of one connection that may be under way; a client keeps back what is more.

Each keeps its headers in memory: with 1,024 of them four connections took 1.3 GB."""
HANDSHAKE_SECONDS = 10
"""Time for a connection to speak HTTP/2."""

Context = Any  # grpc.aio.ServicerContext: the package has no types

_MOST_SAID = 2000
"""Characters of an error: a status that is larger than clients take for headers is lost."""


class GrpcServer:
    """Serves the same engine as HTTP on a second port, in the same loop."""

    def __init__(self, state: ServerState, *, address: str) -> None:
        """``address`` is host and port; port 0 takes a free one, see :attr:`port`."""
        self._state = state
        self._address = address
        settings, total = state.settings, state.engine.bodies.total
        limit = settings.grpc_max_message_bytes or total // LARGEST_TOGETHER
        self._limit = min(limit, settings.max_body_bytes, total // COPIES)
        self._receiving = Receiving(
            max(1, total // self._limit), seconds=settings.default_timeout_seconds
        )
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._reporter: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        settings = self._state.settings
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                ("grpc.server_handshake_timeout_ms", 1000 * HANDSHAKE_SECONDS),
                ("grpc.max_connection_idle_ms", round(1000 * settings.keep_alive_seconds)),
                ("grpc.max_receive_message_length", self._limit),
                ("grpc.max_concurrent_streams", MOST_STREAMS),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                # Clients may ping every second, with calls under way or without: the default
                # closes the connection of one that asks more than twice in five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 500),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._server.add_generic_rpc_handlers((self._handlers(), _NotServed()))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = self._server.add_insecure_port(self._address)
        await self._server.start()
        self._reporter = asyncio.create_task(self._report())
        log.info("grpc listening", port=self.port)

    async def stop(self) -> None:
        """Finish what is under way, within the drain time."""
        if self._reporter is not None:
            self._reporter.cancel()
        if self._server is not None:
            await self._server.stop(self._state.settings.drain_seconds)

    async def _report(self) -> None:
        """Keep the health service at what readiness says; it has no way to ask us."""
        serving = health_pb2.HealthCheckResponse.SERVING
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        while True:
            status, _ = self._state.health.readiness()
            for service in ("", SERVICE):
                await self._health.set(service, serving if status == 200 else not_serving)
            await asyncio.sleep(0.2)

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods: dict[str, Callable[[Any, Context], Awaitable[Message]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        described = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    _guarded(method),
                    getattr(pb, described[name].input_type.name).FromString,
                    getattr(pb, described[name].output_type.name).SerializeToString,
                )
                for name, method in methods.items()
            }
            # The one whose message may be large reads it itself, as a stream of one, which is
            # the same to callers: how many arrive at the same time is bounded, and they are
            # decoded where their size is known.
            | {
                "ModelInfer": grpc.stream_unary_rpc_method_handler(
                    _guarded(self._infer), None, None
                )
            },
        )

    async def _live(self, _request: Any, _context: Context) -> Message:
        return pb.ServerLiveResponse(live=self._state.health.liveness()[0] == 200)

    async def _ready(self, _request: Any, _context: Context) -> Message:
        return pb.ServerReadyResponse(ready=self._state.health.readiness()[0] == 200)

    async def _model_ready(self, request: Any, _context: Context) -> Message:
        try:
            self._state.registry.get(request.name, request.version or None)
        except (NotFound, Unavailable):  # an answer here, not an error: as Triton has it
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _metadata(self, _request: Any, _context: Context) -> Message:
        document = documents.server_metadata(self._state)
        return pb.ServerMetadataResponse(
            name=documents.SERVER_NAME,
            version=document["version"],
            extensions=document["extensions"],
        )

    async def _model_metadata(self, request: Any, _context: Context) -> Message:
        document = documents.model_metadata(self._state, request.name, request.version or None)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=document["name"],
            versions=document["versions"],
            platform=document["platform"],
            inputs=[tensor(**spec) for spec in document["inputs"]],
            outputs=[tensor(**spec) for spec in document["outputs"]],
        )

    async def _config(self, request: Any, _context: Context) -> Message:
        config = documents.model_config(self._state, request.name, request.version or None)
        return pb.ModelConfigResponse(config=ParseDict(config, pb.ModelConfig()))

    async def _statistics(self, request: Any, _context: Context) -> Message:
        if request.name:
            self._state.registry.get(request.name, request.version or None)
        document = documents.statistics(self._state, request.name, request.version or None)
        return pb.ModelStatisticsResponse(
            model_stats=[pb.ModelStatistics(**row) for row in document["model_stats"]]
        )

    async def _index(self, request: Any, _context: Context) -> Message:
        unsupported.check_repository(request.repository_name)
        rows = await self._state.registry.index()
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[index(**row) for row in rows if not request.ready or row["state"] == "READY"]
        )

    async def _load(self, request: Any, _context: Context) -> Message:
        unsupported.check_repository(request.repository_name)
        unsupported.check_load(plain(request.parameters))
        await self._state.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: Any, _context: Context) -> Message:
        unsupported.check_repository(request.repository_name)
        unsupported.check_unload(plain(request.parameters))
        await self._state.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def _infer(self, _messages: Any, context: Context) -> bytes:
        message = await self._receiving.read(context)
        state = self._state
        call = Call("grpc", time.monotonic())
        served: ServedModel | None = None
        parsed: InferRequest | None = None
        try:
            self._read_metadata(context, call)
            size = len(message)
            state.engine.hold(call, COPIES * size)
            name = model_named_first(message)
            if name is not None and (entry := state.registry.entries.get(name)) and entry.default:
                state.engine.check_full(entry.default)
            request = await by_size(size, decode, message, state.settings.max_json_bytes)
            message = b""
            found = state.registry.get(request.model_name, request.model_version or None)
            served = state.engine.admit(found, call)
            try:
                parsed = await by_size(size, parse, request, served)
                request = None
                state.engine.keep(call, size)  # the tensors alone
                answer = await state.engine.infer(served, parsed, call)
                size = sum(values.nbytes for values in answer.outputs.values())
                response = await by_size(size, written, served, parsed, answer.outputs)
            finally:
                state.engine.leave(served)
        except Exception as error:
            raise state.engine.outcomes.failed(served, call, error, parsed) from None
        finally:
            state.engine.let_go(call)
        headers = state.answer_headers(served, answer, call)
        context.set_trailing_metadata([(name.decode(), value.decode()) for name, value in headers])
        state.engine.outcomes.succeeded(served, parsed, call, answer)
        return response

    def _read_metadata(self, context: Context, call: Call) -> None:
        """What the metadata say about the call, by the rules for headers; the first counts.

        Its time is the shorter one of the deadline and ``x-request-timeout``.
        """
        metadata = {
            name: value if isinstance(value, bytes) else value.encode("latin-1", "replace")
            for name, value in reversed(context.invocation_metadata() or ())
        }
        call.request_id = request_id_of(metadata.get("x-request-id")).decode()
        call.follow(metadata.get("traceparent"), starts=self._state.engine.outcomes.traces)
        call.mirrored = "x-slipway-shadow" in metadata
        call.probe = self._state.is_probe(metadata.get("x-slipway-probe"))
        call.timeout = context.time_remaining()
        said = metadata.get("x-request-timeout")
        if said is not None:
            try:
                asked = parse_timeout(said)
            except BadTimeoutError as error:
                raise BadRequest(str(error)) from None
            if asked is not None and (call.timeout is None or asked < call.timeout):
                call.timeout = asked


class _NotServed(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Triton's methods that are not served: refused by the name of their feature."""

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """The method's handler, or None for a method that nobody knows."""
        service, _, method = handler_call_details.method.strip("/").rpartition("/")
        if service != SERVICE or method not in unsupported.GRPC_METHODS:
            return None

        async def refuse(_requests: Any, context: Context) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, unsupported.said(method))

        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(refuse)
        return grpc.unary_unary_rpc_method_handler(refuse)


def _guarded(
    method: Callable[[Any, Context], Awaitable[T]],
) -> Callable[[Any, Context], Awaitable[T]]:
    """The method with our errors as gRPC statuses."""

    async def run(request: Any, context: Context) -> T:
        try:
            return await method(request, context)
        except Cancelled:
            raise asyncio.CancelledError from None
        except InferenceError as error:
            if isinstance(error, Overloaded):
                pushback = str(error.retry_after * 1000)
                context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
            await context.abort(grpc.StatusCode[error.grpc], error.message[:_MOST_SAID])
        except RepositoryError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except ModelError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Exception as error:
            await context.abort(grpc.StatusCode.INTERNAL, failure_of(error).message)
        raise AssertionError("abort always raises")

    return run
