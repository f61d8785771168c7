"""What every protocol does with a checked request: prepare, queue, run, finish, count."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np

from inference.batching.batcher import Batcher, Item
from inference.batching.time_slicer import OFF_LOOP
from inference.engine.classification import classify
from inference.errors import (
    BadRequest,
    DeadlineExceeded,
    InferenceError,
    InputsFailed,
    ModelFailed,
    Overloaded,
    RunTooLarge,
    TooLarge,
)
from inference.models.registry import Registry, ServedModel, fit_images
from inference.prediction_log import Prediction, PredictionLog
from inference.protocols.rest_v2 import InferRequest
from inference.server.http import unpack
from inference.settings import InferenceSettings
from kit.http.content_coding import MOST_UNPACKED
from kit.http.probe_header import is_believed
from kit.http.refusals import RefusalCount, Refusals
from kit.http.request_headers import trace_of
from kit.memory.budget import BusyError, TooCostlyError, body_budget
from kit.oip.errors import BadTensorError
from kit.oip.non_finite import count_of
from kit.oip.tensors import Array
from kit.pictures.pool import Decoding, csv_memory, json_memory
from kit.telemetry import logs, tracing
from kit.telemetry.spans import Spans
from kit.telemetry.tracing import TraceContext
from kit.transforms import TransformError

log = logs.get("inference.engine")

WATCH_AFTER = 0.05
"""Seconds after which a request that is still waiting is watched for its caller hanging up."""

HangUp = Callable[[], Awaitable[None]]
T = TypeVar("T")


TEXT_BYTES = 60
"""What an element of a tensor of texts takes beside its characters."""
JSON_BYTES = {1: 12, 2: 28, 4: 28, 8: 48}
"""What a number takes in an answer of JSON, its text in two copies, by the bytes it has."""
BINARY_COPIES = 3
"""Times that a tensor is in memory while it is written as it is, beside the model's own copy."""


class Call:
    """A request under way. ``hang_up`` returns when its caller is gone; times are monotonic."""

    __slots__ = ("arrived", "caller", "hang_up", "held", "mirrored", "probe", "protocol",
                 "request_id", "started", "timeout", "trace")  # fmt: skip

    def __init__(self, protocol: str, started: float, request_id: str = "") -> None:
        self.protocol = protocol
        self.started = started
        self.arrived = 0.0
        self.request_id = request_id
        self.caller: TraceContext | None = None
        self.trace: TraceContext | None = None
        self.mirrored = False
        self.probe = False
        self.timeout: float | None = None
        self.hang_up: HangUp | None = None
        self.held = 0  # bytes of its body, out of the memory that all bodies share

    def follow(self, traceparent: bytes | None, *, starts: bool) -> None:
        """Go on with the caller's trace; where there is none, start one if ``starts`` says so."""
        self.caller, self.trace = trace_of(traceparent)
        if self.trace is None and starts:
            self.trace = tracing.new_trace(sampled=True)


class Answer:
    """Outputs in order, and where the time went, in seconds."""

    __slots__ = ("compute", "decode", "finished", "outputs", "queue")

    def __init__(
        self,
        outputs: dict[str, Array],
        *,
        decode: float,
        queue: float,
        compute: float,
        finished: float,
    ) -> None:
        self.outputs = outputs
        self.decode = decode
        self.queue = queue
        self.compute = compute
        self.finished = finished


class Engine:
    """Runs requests on the models of a registry. Use it from the event loop only."""

    def __init__(
        self,
        registry: Registry,
        settings: InferenceSettings,
        prediction_log: PredictionLog,
        spans: Spans | None = None,
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.turns = registry.turns
        self.refusals = Refusals()
        self._refused_by_model = RefusalCount(_log_refused)
        self.in_flight = 0
        self.refused: Counter[str] = Counter()
        self.probes: Counter[int] = Counter()
        """Requests of the verifier by status, which everything else leaves out."""
        self._probe_key = settings.probe_key.get_secret_value()
        self.prediction_log = prediction_log
        self._spans = spans
        self._default_timeout = settings.default_timeout_seconds
        self._max_timeout = settings.max_timeout_seconds
        self._max_in_flight = settings.max_in_flight
        self.decoding = Decoding(
            settings.decode_memory_bytes, wait_seconds=settings.decode_wait_seconds
        )
        self.bodies = body_budget(settings.body_memory_bytes)
        self.body_limit = min(settings.max_body_bytes, self.bodies.total)
        self._watchable: dict[Item, tuple[Batcher, HangUp]] = {}
        self._watchers: dict[Item, asyncio.Task[None]] = {}
        self._watch_timer: asyncio.TimerHandle | None = None

    @property
    def traces(self) -> bool:
        """Whether spans are exported, so that a request without a trace starts one."""
        return self._spans is not None

    def is_probe(self, mark: bytes | None) -> bool:
        """Whether the verifier made the request: its header ``X-Slipway-Probe`` is believed."""
        return mark is not None and is_believed(mark, self._probe_key, time.time())

    def hold(self, call: Call, size: int, what: str = "the request's body") -> None:
        """Count ``size`` bytes of a body that are in memory; Overloaded where none are left."""
        try:
            self.bodies.take(size, what)
        except BusyError as error:
            raise Overloaded(str(error)) from None
        call.held += size

    def keep(self, call: Call, size: int) -> None:
        """Give back all but ``size`` bytes of what the call holds."""
        if call.held > size:
            self.bodies.give(call.held - size)
            call.held = size

    def let_go(self, call: Call) -> None:
        """Give back the memory of the request's body."""
        if call.held:
            self.bodies.give(call.held)
            call.held = 0

    def full(self, served: ServedModel) -> bool:
        """Whether another request for this model would wait longer than its target."""
        admission = served.admission
        return admission.open >= admission.limit or self.in_flight >= self._max_in_flight

    def check_full(self, served: ServedModel) -> None:
        """Overloaded where another request for this model would wait too long."""
        if self.full(served):
            raise Overloaded(
                f"model {served.name!r} has {served.admission.open} requests under way, as many "
                "as it answers in time: try again later"
            )

    def count_refused(self, served: ServedModel | None, loop: asyncio.AbstractEventLoop) -> None:
        """Count a request that was refused unparsed; the log gets their number, not each."""
        self.refused["overloaded"] += 1
        self._refused_by_model.add(served.name if served is not None else "", loop)

    def admit(self, served: ServedModel, call: Call) -> ServedModel:
        """Count a request in whose body is there; Overloaded where there are too many.

        The version is leased until :meth:`leave`.
        """
        self.check_full(served)
        call.arrived = time.monotonic()
        self.in_flight += 1
        served.admission.enter()
        return served.lease()

    def leave(self, served: ServedModel) -> None:
        """Count out a request that was admitted, and let go of its version."""
        self.in_flight -= 1
        served.admission.leave()
        served.release()

    def timeout(self, call: Call, request: InferRequest | None = None) -> float:
        """Seconds the request has, from its start: the shortest of what it and we say.

        ``request`` is None while its body is not there yet.
        """
        asked = call.timeout
        inside = None if request is None else request.timeout
        if inside is not None and (asked is None or inside < asked):
            asked = inside
        if asked is None or asked == math.inf:
            return self._default_timeout
        return min(asked, self._max_timeout)

    async def infer(self, served: ServedModel, request: InferRequest, call: Call) -> Answer:
        """The outputs that ``request`` wants; the caller has leased ``served``."""
        if request.images is None:
            decoded = time.monotonic()
            item = await self._run(served, request, call)
            return self.answer(served, request, call, item, decoded)
        served.batcher.check_room(request.rows)
        try:
            return await self._infer_images(served, request, call)
        except TooCostlyError as error:
            raise BadRequest(str(error)) from None
        except BusyError as error:
            raise Overloaded(str(error)) from None

    async def parse(
        self,
        size: int,
        document: bytes,
        work: Callable[..., T],
        *arguments: object,
        csv: bool = False,
    ) -> T:
        """What ``work`` makes of a body of ``size`` bytes, of which ``document`` is JSON or CSV.

        Small ones are parsed at once, large ones in a thread, all of those together within the
        memory there is for decoding: TooLarge or Overloaded.
        """
        if size < OFF_LOOP:
            return work(*arguments)
        try:
            memory = csv_memory(document) if csv else json_memory(document)
            return await self.decoding.run(memory, "the request", work, *arguments)
        except TooCostlyError as error:
            raise TooLarge(f"{error}, or the tensors as binary data") from None
        except BusyError as error:
            raise Overloaded(str(error)) from None

    def submit(
        self, served: ServedModel, request: InferRequest, call: Call, done: Callable[[Item], None]
    ) -> Item:
        """Queue a request whose inputs are complete; ``done`` is called with its item."""
        for values in request.feeds.values():
            if values.dtype.kind == "O":
                self.hold(call, TEXT_BYTES * values.size)
        item = Item(
            request.feeds, request.rows, request.run_outputs, done,
            key=request.key, deadline=call.started + self.timeout(call, request),
            arrived=call.arrived,
        )  # fmt: skip
        served.batcher.submit(item)
        return item

    def answer(
        self, served: ServedModel, request: InferRequest, call: Call, item: Item, decoded: float
    ) -> Answer:
        """What a finished item gives: its outputs, or its error raised."""
        if item.error is not None:
            try:
                raise item.error
            finally:
                item.error = None  # it holds this frame, and so the item with its tensors
        outputs: dict[str, Array] = dict(zip(item.outputs, item.results, strict=True))
        if served.finish is not None and (request.images is not None or request.wanted):
            outputs = self._finish(served, request, outputs)
        if request.wanted is not None:
            outputs = {name: outputs[name] for name, _ in request.wanted}
        if request.classes:
            outputs = classify(
                outputs, request.classes, served.manifest.labels,
                rows=served.model.has_row_dimension,
            )  # fmt: skip
        size = sum(values.nbytes for values in outputs.values())
        if size >= OFF_LOOP:
            self._hold_answer(request, call, outputs)
        return Answer(
            outputs,
            decode=decoded - call.started,
            queue=item.started - item.enqueued,
            compute=item.finished - item.started,
            finished=item.finished,
        )

    def _hold_answer(self, request: InferRequest, call: Call, outputs: dict[str, Array]) -> None:
        """Hold what a large answer takes while it is written, until its call lets go.

        RunTooLarge where there is never as much, Overloaded where others hold it.
        """
        binary = dict.fromkeys(outputs, call.protocol == "grpc" or request.binary)
        memory = sum(
            memory_of(values, binary=(binary | dict(request.wanted or ()))[name])
            for name, values in outputs.items()
        )
        if memory > self.bodies.total:
            raise RunTooLarge(
                f"the answer takes about {memory >> 20} MiB to be written, more than the "
                f"{self.bodies.total >> 20} MiB there are for bodies (body_memory_bytes): ask for "
                "fewer rows or outputs, or for binary data"
            )
        self.hold(call, memory, "the answer")

    async def _run(self, served: ServedModel, request: InferRequest, call: Call) -> Item:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: Item) -> None:
            if not future.done():
                future.set_result(None)

        item = self.submit(served, request, call, done)
        if call.hang_up is not None:
            self._watchable[item] = (served.batcher, call.hang_up)
            if self._watch_timer is None:
                loop = future.get_loop()
                self._watch_timer = loop.call_later(WATCH_AFTER, self._watch, loop)
        try:
            await future
        except asyncio.CancelledError:
            served.batcher.cancel(item)
            raise
        finally:
            self._watchable.pop(item, None)
            if (watcher := self._watchers.pop(item, None)) is not None:
                watcher.cancel()
        return item

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start watching the callers of requests that have been waiting for a while.

        Watching costs a task per request; nearly all are answered before it is worth one.
        """
        self._watch_timer = None
        now = time.monotonic()
        for item in list(self._watchable):
            if now - item.enqueued >= WATCH_AFTER / 2:
                batcher, hang_up = self._watchable.pop(item)
                self._watchers[item] = loop.create_task(_watched(item, batcher, hang_up))
        if self._watchable:
            self._watch_timer = loop.call_later(WATCH_AFTER, self._watch, loop)

    async def unpack(self, body: bytes, coding: str, call: Call) -> bytes:
        """A compressed body's bytes; what they are at most is held, and then what they are."""
        limit = self.body_limit
        most = min(len(body) * MOST_UNPACKED, limit)
        try:
            async with self.bodies.room(most, "the unpacked body") as held:
                if most < OFF_LOOP:
                    plain = unpack(body, coding, limit)
                else:
                    plain = await self.decoding.thread(unpack, body, coding, limit)
                held.keep(0)
                self.hold(call, len(plain))  # no more than was held, and nobody ran in between
        except BusyError as error:
            raise Overloaded(str(error)) from None
        return plain

    async def _infer_images(self, served: ServedModel, request: InferRequest, call: Call) -> Answer:
        """The same for raw images: their pixels and rows take of the memory for decoding."""
        left = call.started + self.timeout(call, request) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                memory, rows = await self._read_heads(served, request)
        except TimeoutError:
            raise _too_late() from None
        what = f"{len(request.images or ())} images"
        async with self.decoding.room(memory, what, wait_seconds=left) as held:
            await self._prepare(served, request, call)
            held.keep(rows)
            decoded = time.monotonic()
            item = await self._run(served, request, call)
            return self.answer(served, request, call, item, decoded)

    async def _read_heads(self, served: ServedModel, request: InferRequest) -> tuple[int, int]:
        """Bytes that the images take at most while they are decoded, and then as rows."""
        prepare, images = served.prepare, request.images
        assert prepare is not None and images is not None
        largest = rows = 0
        try:
            for image in images:
                head = await self.decoding.thread(prepare.read_head, image)
                largest = max(largest, head.memory)
                rows += head.result // 2
        except TransformError as error:
            raise BadRequest(f"input {served.model.inputs[0].name!r}: {error}") from None
        return largest + rows, rows

    async def _prepare(self, served: ServedModel, request: InferRequest, call: Call) -> None:
        """Raw images become the model's one input, in threads: pictures can be large.

        One at a time, so that requests take turns and nothing is done for one that is over.
        """
        deadline = call.started + self.timeout(call, request)
        prepare = served.prepare
        images = request.images
        assert prepare is not None and images is not None
        spec = served.model.inputs[0]
        thread = self.decoding.thread
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                # what a thread is at when the time runs out holds its memory to its end
                rows = [await asyncio.shield(thread(prepare, image)) for image in images]
                values = await thread(np.stack, rows)
        except TimeoutError:
            raise _too_late() from None
        except TransformError as error:
            raise BadRequest(f"input {spec.name!r}: {error}") from None
        except ValueError as error:
            raise BadRequest(f"input {spec.name!r}: images differ in shape: {error}") from None
        request.feeds = {spec.name: fit_images(spec, values, batched=served.batched)}
        if served.variable_shapes:
            request.key = (values.shape[1:],)

    def _finish(
        self, served: ServedModel, request: InferRequest, outputs: dict[str, Array]
    ) -> dict[str, Array]:
        finish = served.finish
        assert finish is not None
        if request.wanted is not None and all(name in outputs for name, _ in request.wanted):
            return outputs
        try:
            return finish(outputs)
        except TransformError as error:
            of_inputs = served.model.known_input.finite and any(map(count_of, outputs.values()))
            kind = InputsFailed if of_inputs else ModelFailed
            raise kind(f"post-processing of model {served.name!r}: {error}") from None

    def succeeded(
        self, served: ServedModel, request: InferRequest, call: Call, answer: Answer
    ) -> None:
        """The answer is on its way: count it, and log and trace it where that is on."""
        now = time.monotonic()
        total = now - call.started
        if call.probe:
            self.probes[200] += 1
        else:
            served.statistics.succeeded(
                call.protocol,
                request.rows,
                decode=answer.decode,
                queue=answer.queue,
                compute=answer.compute,
                encode=now - answer.finished,
                total=total,
            )
        if self.prediction_log.enabled and not call.probe:
            self.prediction_log.record(
                Prediction(
                    call.request_id, call.protocol, served.name, served.version, 200,
                    finished=time.time(), total=total, trace=call.trace, mirrored=call.mirrored,
                    rows=request.rows, inputs=request.feeds, outputs=answer.outputs,
                    queue=answer.queue, compute=answer.compute,
                )
            )  # fmt: skip
        if self._spans is not None and call.trace is not None:
            self._trace(call, call.trace, served, total, 200, "", answer)

    def failed(
        self,
        served: ServedModel | None,
        call: Call,
        cause: Exception,
        request: InferRequest | None = None,
    ) -> InferenceError:
        """The same for an error; gives what the caller is to be told of it.

        ``served`` is None where no model was found for it, ``request`` where it was not parsed.
        """
        error = failure_of(cause)
        total = time.monotonic() - call.started
        if call.probe:
            self.probes[error.status] += 1
        elif served is None:
            self.refused[error.reason] += 1
        else:
            served.statistics.failed(call.protocol, error.status, error.reason, total)
        if self.prediction_log.enabled and not call.probe:
            self.prediction_log.record(
                Prediction(
                    call.request_id, call.protocol, served.name if served else "",
                    served.version if served else "", error.status,
                    finished=time.time(), total=total, trace=call.trace, mirrored=call.mirrored,
                    rows=request.rows if request else 0,
                    inputs=request.feeds if request else None,
                    reason=error.reason, error=error.message,
                )
            )  # fmt: skip
        if self._spans is not None and call.trace is not None:
            self._trace(call, call.trace, served, total, error.status, error.reason, None)
        return error

    def _trace(
        self,
        call: Call,
        context: TraceContext,
        served: ServedModel | None,
        total: float,
        *outcome: Any,
    ) -> None:
        spans, end = self._spans, time.time_ns()
        assert spans is not None
        status, reason, answer = outcome
        attributes: dict[str, str | int | float | bool] = {
            "slipway.protocol": call.protocol,
            "slipway.request_id": call.request_id,
            "http.response.status_code": status,
        }
        if served is not None:
            attributes |= {"slipway.model": served.name, "slipway.version": served.version}
        if answer is not None:
            attributes |= {
                "slipway.queue_ms": round(answer.queue * 1000, 3),
                "slipway.compute_ms": round(answer.compute * 1000, 3),
            }
        spans.add(
            f"infer {served.name}" if served else "infer",
            context,
            parent=call.caller,
            start_ns=end - int(total * 1e9),
            end_ns=end,
            attributes=attributes,
            error=reason,
        )

    def close(self) -> None:
        """Stop the helper threads and send what is left of log and spans."""
        self.decoding.close()
        self.prediction_log.close()
        if self._spans is not None:
            self._spans.close()


def memory_of(values: Array, *, binary: bool) -> int:
    """Bytes that an output takes while it is written."""
    if values.dtype.kind == "O":
        return TEXT_BYTES * values.size
    return BINARY_COPIES * values.nbytes if binary else JSON_BYTES[values.itemsize] * values.size


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request's time ran out while its images were prepared")


def _log_refused(model: str, count: int) -> None:
    log.warning("requests refused", model=model, reason="overloaded", count=count)


def failure_of(error: Exception) -> InferenceError:
    """What the caller is told: the error itself, or that it is a defect of ours (logged)."""
    if isinstance(error, InferenceError):
        return error
    if isinstance(error, BadTensorError):
        return BadRequest(str(error))
    log.error("unexpected error", exc_info=error)
    return InferenceError(f"unexpected {type(error).__name__}: see the server's log")


async def _watched(item: Item, batcher: Batcher, hang_up: HangUp) -> None:
    await hang_up()
    if not item.settled:
        batcher.cancel(item)
        item.done(item)
