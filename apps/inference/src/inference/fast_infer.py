"""Answers what nearly all requests are, POST …/infer small and plain, inside uvicorn's protocol.

It is uvicorn's HTTP protocol with one more branch. A POST to an infer path with a
Content-Length of at most 1 MiB and no encoding is parsed, queued and answered from the protocol's
own callbacks: no scope, no task, no coroutine, one write. Everything else takes uvicorn's way
to the ASGI application, which answers the same requests with the same code and the same
result; the tests run both. What it saves is in docs/adr/0022.

Overload is refused here too, by the bytes as they come from the socket, before anything is
parsed: at ten thousand requests a second saying no must cost far less than saying yes
(docs/adr/0025).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, cast

from inference.batching.item import Item
from inference.engine.call import Call
from inference.engine.request import InferRequest
from inference.errors import Cancelled, DeadlineExceeded, InferenceError, Overloaded, SlowBody
from inference.models.served import ServedModel
from inference.protocols.rest_v2 import encode, parse
from inference.server.bodies import SLOW_BODY, Headers, content_length
from inference.server.exchange import json_bytes
from inference.server.infer_paths import InferPaths, Target
from inference.server.state import ServerState
from kit.http.early_refusals import RefusingProtocol
from kit.http.request_headers import request_id_of

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_OK = _STATUS_LINES[200]
_JSON_LENGTH = b"inference-header-content-length"

LARGEST_BODY = 1024 * 1024
"""Bytes of body up to which a request is answered here."""
LONGEST_PATH = 512
"""Bytes in which the path of a request that is refused unparsed must end."""
READ_ANYWAY = 64 * 1024
"""Bytes of body up to which a refused request is read, and its connection kept."""

_HEAD_END = b"\r\n\r\n"
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_REFUSED_ERROR = (
    b'{"error":"the model has as many requests under way as it answers in time: try again later"}'
)
_REFUSED = _STATUS_LINES[
    429
] + b"content-type: application/json\r\nretry-after: 1\r\ncontent-length: %d\r\n" % len(
    _REFUSED_ERROR
)


class FastRequest:
    """A request that is answered here. To the protocol it looks like uvicorn's request cycle."""

    __slots__ = (
        "body", "call", "counted", "decoded", "disconnected", "item", "json_length",
        "keep_alive", "more_body", "name", "protocol", "refusal", "request", "response_complete",
        "served", "state", "task", "timer", "version",
    )  # fmt: skip

    def __init__(self, protocol: FastProtocol, target: Target, *, keep_alive: bool) -> None:
        self.protocol = protocol
        self.state = protocol.state
        self.name, self.version = target
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.call = Call("rest", time.monotonic())
        self.json_length: int | None = None
        self.served: ServedModel | None = None
        self.request: InferRequest | None = None
        self.item: Item | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.refusal: InferenceError | None = None
        self.counted = False
        self.decoded = 0.0

    @property
    def message_event(self) -> FastRequest:
        """Uvicorn sets it when something happened; we learn it by other means."""
        return self

    def set(self) -> None:
        """See :attr:`message_event`."""

    def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        """The headers are there: look whether there is a place for it."""
        try:
            by_name = self.state.read_headers(headers, self.call)
            length = by_name.get(_JSON_LENGTH)
            if length is not None:
                self.json_length = content_length(length, "Inference-Header-Content-Length")
            self.state.engine.check_full(self.state.registry.get(self.name, self.version))
        except InferenceError as error:
            self.refusal = error

    def refuse_unread(self) -> None:
        """Refuse it at its headers: its body is left in the socket."""
        assert self.refusal is not None
        self.keep_alive = False
        self.refuse(self.refusal)

    def add(self, part: bytes) -> None:
        """A part of the body came: keep it, unless the bodies of others leave no room."""
        try:
            self.state.engine.hold(self.call, len(part))
        except Overloaded as error:
            self.refusal = error
            self.body.clear()
        else:
            self.body += part

    def await_body(self) -> None:
        """The body comes in pieces: the rest of it has the request's time."""
        left = self.call.started + self.state.engine.timeout(self.call) - time.monotonic()
        self.timer = self.protocol.loop.call_later(max(0.0, left), self.expire)

    def expire(self) -> None:
        """The body is not there, and may never be: the connection can carry nothing more."""
        self.keep_alive = False
        self.refuse(self.refusal or SlowBody(SLOW_BODY))

    def run(self) -> None:
        """The body is there: queue the request, unless its model has no room."""
        if self.timer is not None:
            self.timer.cancel()
        if self.refusal is not None:
            self.refuse(self.refusal)
            return
        state = self.state
        try:
            served = state.registry.get(self.name, self.version)
            self.served = state.engine.admit(served, self.call)
            self.counted = True
            served.batcher.check_room(1)
        except InferenceError as error:
            self.refuse(error)
            return
        state.engine.time_slicer.run(self.take)

    def take(self) -> None:
        """Parse and queue it: the time slicer calls this."""
        state, call = self.state, self.call
        if self.response_complete:
            return  # its caller hung up meanwhile
        try:
            served = self.served
            assert served is not None
            if call.timeout is not None and time.monotonic() - call.started > call.timeout:
                raise DeadlineExceeded("the request's time ran out before it was parsed")
            request = parse(bytes(self.body), self.json_length, served)
            self.request = request
            if request.images is not None:
                self.start(self.run_slowly(served, request))
                return
            self.decoded = time.monotonic()
            self.item = state.engine.submit(served, request, call, self.done)
        except Exception as error:
            self.refuse(error)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on in a task, which the server waits for when it stops."""
        tasks = self.protocol.tasks
        self.task = self.protocol.loop.create_task(work)
        tasks.add(self.task)
        self.task.add_done_callback(tasks.discard)
        self.task.add_done_callback(self.over)

    def over(self, task: asyncio.Task[None]) -> None:
        """The task is through, or was cancelled before it had begun."""
        if task.cancelled():
            self.refuse(Cancelled("the caller hung up"))

    async def run_slowly(self, served: ServedModel, request: InferRequest) -> None:
        """Raw images are decoded in a thread."""
        try:
            answer = await self.state.engine.infer(served, request, self.call)
            self.respond(served, request, answer)
        except Exception as error:
            self.refuse(error)

    def done(self, item: Item) -> None:
        """The batcher is through with it."""
        served, request, state = self.served, self.request, self.state
        assert served is not None and request is not None
        try:
            answer = state.engine.answer(served, request, self.call, item, self.decoded)
            self.respond(served, request, answer)
        except Exception as error:
            self.refuse(error)

    def respond(self, served: ServedModel, request: InferRequest, answer: Any) -> None:
        """Write the answer and count it."""
        state = self.state
        body, json_length = encode(served, request, answer.outputs)
        head = [_OK, served.header_lines, state.identity_lines]
        head.append(
            b"x-slipway-queue-ms: %.3f\r\nx-slipway-compute-ms: %.3f\r\nx-request-id: %b\r\n"
            % (answer.queue * 1000, answer.compute * 1000, self.call.request_id.encode())
        )
        if request.non_finite:
            head.append(_lines(state.non_finite_headers(request)))
        if json_length is None:
            head.append(b"content-type: application/json\r\n")
        else:
            head.append(
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % json_length
            )
        self.write(head, body)
        state.engine.outcomes.succeeded(served, request, self.call, answer)

    def refuse(self, cause: Exception) -> None:
        """Write an error and count it."""
        error = self.state.engine.outcomes.failed(self.served, self.call, cause, self.request)
        if isinstance(error, Cancelled):
            self.finish()
            return
        headers, body = self.state.refusal(error, self.call)
        self.write([_STATUS_LINES[error.status], _lines(headers)], body)

    def write(self, head: list[bytes], body: bytes) -> None:
        """One write for all of the answer, then on to the next request."""
        self.finish()
        if self.disconnected:
            return
        protocol = self.protocol
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        head.append(body)
        protocol.transport.write(b"".join(head))
        if self.more_body and isinstance(self.refusal, Overloaded):
            protocol.close_unread()
        elif not self.keep_alive:
            protocol.close()
        protocol.on_response_complete()

    def finish(self) -> None:
        """Nothing more comes: free the place."""
        self.response_complete = True
        self.state.engine.let_go(self.call)
        if self.timer is not None:
            self.timer.cancel()
        if self.counted:
            self.counted = False
            assert self.served is not None
            self.state.engine.leave(self.served)

    def hang_up(self) -> None:
        """The caller is gone."""
        self.disconnected = True
        if self.response_complete:
            return
        if self.item is not None and self.served is not None and not self.item.settled:
            self.served.batcher.cancel(self.item)
            self.done(self.item)
        elif self.task is not None:
            self.task.cancel()
        elif self.request is None:
            self.refuse(Cancelled("the caller hung up"))


class FastProtocol(RefusingProtocol):
    """Uvicorn's protocol, which answers plain infer requests itself."""

    state: ServerState
    paths: InferPaths
    size_limit: int
    fast: FastRequest | None = None

    def data_received(self, data: bytes) -> None:
        """As usual; then give a body that is not there yet its time."""
        super().data_received(data)
        fast = self.fast
        if fast is not None and fast.more_body and fast.timer is None:
            fast.await_body()

    def overloaded(self, data: bytes) -> bool:
        """Whether the model of an infer request is full; everything else goes to the parser."""
        if not data.startswith(b"POST "):
            return False
        served = self.paths.served_at(data[5 : data.find(b" ", 5, LONGEST_PATH)])
        return served is not None and self.state.engine.full(served)

    def refusal(self, data: bytes) -> bytes:
        """The bytes of a 429, with the request's id where one is in the headers."""
        state = self.state
        served = self.paths.served_at(data[5 : data.find(b" ", 5, LONGEST_PATH)])
        state.engine.outcomes.count_refused(served, self.loop)
        match = _REQUEST_ID.search(data, 0, data.find(_HEAD_END) + 2)
        identity = request_id_of(match[1] if match else None)
        return b"%bx-request-id: %b\r\n%b\r\n%b" % (
            _REFUSED, identity, state.identity_lines, _REFUSED_ERROR,
        )  # fmt: skip

    def _should_upgrade(self) -> bool:
        """Never: no WebSocket is served here."""
        return False

    def refuse_bytes(self, status: int, message: str) -> tuple[bytes, bytes]:
        """Content type and body of the answer to what is no HTTP."""
        return b"application/json", json_bytes({"error": message})

    def on_head(self) -> None:
        """Answer the request here if it is plain and none before it is under way."""
        before = self.cycle
        self.fast = None
        if (
            (before is None or before.response_complete)
            and not self.pipeline
            and self.parser.get_method() == b"POST"
            and not self.flow.write_paused
            and not self.expect_100_continue
        ):
            target = self.paths.find(self.url.decode("latin-1"))
            if target is not None and (self._plain() or self._is_refused_unread()):
                keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
                self.fast = FastRequest(self, target, keep_alive=keep)
                self.cycle = cast("Any", self.fast)
                self.fast.begin(self.headers)
                if isinstance(self.fast.refusal, Overloaded) and self._is_refused_unread():
                    self.fast.refuse_unread()
                return
        super().on_head()

    def _plain(self) -> bool:
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() else -1
            elif name in (b"transfer-encoding", b"content-encoding", b"upgrade"):
                return False
        return 0 <= length <= self.size_limit

    def _is_refused_unread(self) -> bool:
        """Whether a body would cost more to read and throw away than a connection costs."""
        served = self.paths.served_at(self.url)
        if served is None or not self.state.engine.full(served):
            return False
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        return length.isdigit() and int(length) > READ_ANYWAY

    def on_end(self) -> None:
        """The body is complete."""
        if self.fast is None:
            super().on_end()
        elif not self.fast.response_complete:
            self.fast.more_body = False
            self.fast.run()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self.fast is None:
            super().on_body(body)
            return
        self.excess -= len(body)
        if self.fast.refusal is None and not self.fast.response_complete:
            self.fast.add(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone: give up its place in the queue."""
        cycle = cast("Any", self.cycle)
        super().connection_lost(exc)
        if type(cycle) is FastRequest:
            cycle.hang_up()


def server_protocol(state: ServerState) -> type[FastProtocol]:
    """The protocol class to serve HTTP with."""
    engine, settings = state.engine, state.settings
    shared = {
        "state": state,
        "paths": state.paths,
        "refusals": engine.refusals,
        "size_limit": min(LARGEST_BODY, settings.max_json_bytes, engine.body_limit),
    }
    return type("InferenceProtocol", (FastProtocol,), shared)


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)
