"""What every protocol does with a checked request: prepare, queue, run, finish, count."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

from inference.batching.batcher import Batcher
from inference.batching.item import Item
from inference.batching.time_slicer import OFF_LOOP
from inference.engine import pictures
from inference.engine.answer_memory import TEXT_BYTES, memory_of
from inference.engine.call import Answer, Call, HangUp
from inference.engine.classification import classify
from inference.engine.outcomes import Outcomes
from inference.engine.request import InferRequest
from inference.errors import (
    BadRequest,
    InputsFailed,
    ModelFailed,
    Overloaded,
    RunTooLarge,
    TooLarge,
)
from inference.models.registry import Registry
from inference.models.served import ServedModel
from inference.settings import InferenceSettings
from kit.http.refusals import Refusals
from kit.memory.budget import BusyError, TooCostlyError, body_budget
from kit.oip.non_finite import count_of
from kit.oip.tensors import Array
from kit.pictures.pool import Decoding, csv_memory, json_memory
from kit.transforms import TransformError

WATCH_AFTER = 0.05
"""Seconds after which a request that is still waiting is watched for its caller hanging up."""

T = TypeVar("T")


class Engine:
    """Runs requests on the models of a registry. Use it from the event loop only."""

    def __init__(self, registry: Registry, settings: InferenceSettings, outcomes: Outcomes) -> None:
        self.registry = registry
        self.settings = settings
        self.time_slicer = registry.time_slicer
        self.refusals = Refusals()
        self.outcomes = outcomes
        self.in_flight = 0
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

        Small ones are parsed immediately, large ones in a thread, all of those together within the
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

    async def _infer_images(self, served: ServedModel, request: InferRequest, call: Call) -> Answer:
        """The same for raw images: their pixels and rows take of the memory for decoding."""
        deadline = call.started + self.timeout(call, request)
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                memory, rows = await pictures.read_heads(served, request, self.decoding)
        except TimeoutError:
            raise pictures.too_late() from None
        what = f"{len(request.images or ())} images"
        async with self.decoding.room(memory, what, wait_seconds=left) as held:
            await pictures.prepare(served, request, self.decoding, deadline=deadline)
            held.keep(rows)
            decoded = time.monotonic()
            item = await self._run(served, request, call)
            return self.answer(served, request, call, item, decoded)

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

    def close(self) -> None:
        """Stop the helper threads and send what is left of log and spans."""
        self.decoding.close()
        self.outcomes.close()


async def _watched(item: Item, batcher: Batcher, hang_up: HangUp) -> None:
    await hang_up()
    if not item.settled:
        batcher.cancel(item)
        item.done(item)
