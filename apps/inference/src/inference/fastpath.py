"""The short way for the request that nearly all requests are: POST …/infer, small and plain.

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
from typing import TYPE_CHECKING, Any, cast

from inference.engine import Call
from inference.errors import Cancelled, DeadlineExceeded, InferenceError, SlowBody
from inference.http import SLOW_BODY, Headers, content_length
from inference.models import ServedModel, json_bytes
from inference.protocol import InferRequest, encode, parse
from kit.connections import BoundedProtocol
from kit.request_headers import request_id_of

if TYPE_CHECKING:
    from inference.app import InferenceApp, Target
    from inference.batcher import Item

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_OK = _STATUS_LINES[200]
_JSON_LENGTH = b"inference-header-content-length"

_INFER = re.compile(rb"POST (/v2/models/[^ ?/%]+(?:/versions/[^ ?/%]+)?/infer) HTTP/1\.1\r\n")
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n")
_NOT_PLAIN = re.compile(
    rb"\n(?:transfer-encoding|expect|upgrade|connection:(?![ \t]*keep-alive\r))"
)
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_REFUSED_ERROR = (
    b'{"error":"the server has as many requests under way as it takes: try again later"}'
)
_REFUSED = _STATUS_LINES[
    429
] + b"content-type: application/json\r\nretry-after: 1\r\ncontent-length: %d\r\n" % len(
    _REFUSED_ERROR
)


class FastRequest:
    """A request on the short way. To the protocol it looks like uvicorn's request cycle."""

    __slots__ = (
        "app", "body", "call", "counted", "decoded", "disconnected", "item", "json_length",
        "keep_alive", "more_body", "name", "protocol", "refusal", "request", "response_complete",
        "served", "task", "timer", "version",
    )  # fmt: skip

    def __init__(self, protocol: FastProtocol, target: Target, *, keep_alive: bool) -> None:
        self.protocol = protocol
        self.app = protocol.inference
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
        """Uvicorn sets it when something happened; we are told by other means."""
        return self

    def set(self) -> None:
        """See :attr:`message_event`."""

    def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        """The headers are there: look whether there is a place for it."""
        try:
            by_name = self.app.read_headers(headers, self.call)
            length = by_name.get(_JSON_LENGTH)
            if length is not None:
                self.json_length = content_length(length, "Inference-Header-Content-Length")
            self.app.engine.check_full()
        except InferenceError as error:
            self.refusal = error

    def await_body(self) -> None:
        """The body comes in pieces: the rest of it has the request's time."""
        left = self.call.started + self.app.engine.timeout(self.call) - time.monotonic()
        self.timer = self.protocol.loop.call_later(max(0.0, left), self.expire)

    def expire(self) -> None:
        """The body is not there, and may never be: the connection can carry nothing more."""
        self.keep_alive = False
        self.refuse(self.refusal or SlowBody(SLOW_BODY))

    def run(self) -> None:
        """The body is there: take the request in its turn, unless its model has no room."""
        if self.timer is not None:
            self.timer.cancel()
        if self.refusal is not None:
            self.refuse(self.refusal)
            return
        app = self.app
        try:
            app.engine.admit()
            self.counted = True
            served = app.registry.get(self.name, self.version)
            self.served = served
            served.batcher.check_room(1)
        except InferenceError as error:
            self.refuse(error)
            return
        app.engine.turns.run(self.take)

    def take(self) -> None:
        """Parse and queue it; its turn has come."""
        app, call = self.app, self.call
        if self.response_complete:
            return  # its caller hung up meanwhile
        try:
            # again: what was looked up when the body came may be unloaded by now
            served = app.registry.get(self.name, self.version)
            self.served = served
            if call.timeout is not None and time.monotonic() - call.started > call.timeout:
                raise DeadlineExceeded("the request's time ran out before it was parsed")
            request = parse(bytes(self.body), self.json_length, served)
            self.request = request
            served.lease()
            if request.images is not None:
                self.start(self.run_slowly(served, request))
                return
            self.decoded = time.monotonic()
            try:
                self.item = app.engine.submit(served, request, call, self.done)
            except InferenceError:
                served.release()
                raise
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
        assert self.served is not None
        self.served.release()
        if task.cancelled():
            self.refuse(Cancelled("the caller hung up"))

    async def run_slowly(self, served: ServedModel, request: InferRequest) -> None:
        """Raw images are decoded in a thread."""
        try:
            answer = await self.app.engine.infer(served, request, self.call)
            self.respond(served, request, answer)
        except Exception as error:
            self.refuse(error)

    def done(self, item: Item) -> None:
        """The batcher is through with it."""
        served, request, app = self.served, self.request, self.app
        assert served is not None and request is not None
        try:
            answer = app.engine.answer(served, request, self.call, item, self.decoded)
            self.respond(served, request, answer)
        except Exception as error:
            self.refuse(error)
        finally:
            served.release()

    def respond(self, served: ServedModel, request: InferRequest, answer: Any) -> None:
        """Write the answer and count it."""
        app = self.app
        body, json_length = encode(served, request, answer.outputs)
        head = [_OK, served.header_lines, app.identity_lines]
        head.append(
            b"x-slipway-queue-ms: %.3f\r\nx-slipway-compute-ms: %.3f\r\nx-request-id: %b\r\n"
            % (answer.queue * 1000, answer.compute * 1000, self.call.request_id.encode())
        )
        if request.non_finite:
            head.append(_lines(app.non_finite_headers(request)))
        if json_length is None:
            head.append(b"content-type: application/json\r\n")
        else:
            head.append(
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % json_length
            )
        self.write(head, body)
        app.engine.succeeded(served, request, self.call, answer)

    def refuse(self, cause: Exception) -> None:
        """Write an error and count it."""
        error = self.app.engine.failed(self.served, self.call, cause, self.request)
        if isinstance(error, Cancelled):
            self.finish()
            return
        headers, body = self.app.refusal(error, self.call)
        self.write([_STATUS_LINES[error.status], _lines(headers)], body)

    def write(self, head: list[bytes], body: bytes) -> None:
        """One write for the whole answer, then on to the next request."""
        self.finish()
        if self.disconnected:
            return
        protocol = self.protocol
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        head.append(body)
        protocol.transport.write(b"".join(head))
        if not self.keep_alive:
            protocol.close()
        protocol.on_response_complete()

    def finish(self) -> None:
        """Nothing more comes: free the place."""
        self.response_complete = True
        if self.timer is not None:
            self.timer.cancel()
        if self.counted:
            self.counted = False
            self.app.engine.leave()

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


class FastProtocol(BoundedProtocol):
    """Uvicorn's protocol with the short way in it."""

    inference: InferenceApp
    fast: FastRequest | None = None
    inside = False
    """Whether the parser is inside a request."""
    refused = False
    """Whether a request was refused unparsed since the keep-alive timer was set."""

    def data_received(self, data: bytes) -> None:
        """Refuse a whole request unparsed where there are too many, else go on as usual."""
        app = self.inference
        if (
            app.engine.full
            and app.engine.refuses_unparsed
            and not self.flow.write_paused
            and not self.inside
            and (self.cycle is None or self.cycle.response_complete)
            and (target := whole_infer(data)) is not None
            and app.hot(target) is not None
        ):
            app.engine.refused["overloaded"] += 1
            self.refused = True
            self.answered_unparsed()
            self.transport.write(self.unparsed_refusal(data))
            return
        super().data_received(data)
        fast = self.fast
        if fast is not None and fast.more_body and fast.timer is None:
            fast.await_body()

    def unparsed_refusal(self, data: bytes) -> bytes:
        """The bytes of a 429, with the request's id where one is in the headers."""
        match = _REQUEST_ID.search(data, 0, data.find(_HEAD_END) + 2)
        identity = request_id_of(match[1] if match else None)
        lines = self.inference.identity_lines
        return b"%bx-request-id: %b\r\n%b\r\n%b" % (_REFUSED, identity, lines, _REFUSED_ERROR)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.inside = True
        super().on_message_begin()

    def _should_upgrade(self) -> bool:
        """Never: no WebSocket is served here."""
        return False

    def refuse_bytes(self, status: int, message: str) -> tuple[bytes, bytes]:
        """Content type and body of the answer to what is no HTTP."""
        return b"application/json", json_bytes({"error": message})

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, unless requests on it were refused meanwhile."""
        if self.refused:
            self.refused = False
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        super().timeout_keep_alive_handler()

    def on_head(self) -> None:
        """Take the short way where the request is plain and nothing is under way before it."""
        before = self.cycle
        self.fast = None
        if (
            (before is None or before.response_complete)
            and not self.pipeline
            and self.parser.get_method() == b"POST"
            and not self.flow.write_paused
            and not self.expect_100_continue
        ):
            target = self.inference.hot(self.url.decode("latin-1"))
            if target is not None and self._plain():
                keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
                self.fast = FastRequest(self, target, keep_alive=keep)
                self.cycle = cast("Any", self.fast)
                self.fast.begin(self.headers)
                return
        super().on_head()

    def _plain(self) -> bool:
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() else -1
            elif name in (b"transfer-encoding", b"content-encoding", b"upgrade"):
                return False
        return 0 <= length <= self.inference.short_way_limit

    def on_end(self) -> None:
        """The body is complete."""
        self.inside = False
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
        self.body_arrived(len(body))
        if self.fast.refusal is None and not self.fast.response_complete:
            self.fast.body += body

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone: give up its place in the queue."""
        cycle = cast("Any", self.cycle)
        super().connection_lost(exc)
        if type(cycle) is FastRequest:
            cycle.hang_up()


def server_protocol(app: InferenceApp) -> type[FastProtocol]:
    """The protocol class to serve ``app`` with."""
    return type("InferenceProtocol", (FastProtocol,), {"inference": app})


def whole_infer(data: bytes) -> str | None:
    """The path, where ``data`` is one whole, plain infer request and nothing beside it."""
    match = _INFER.match(data)
    if match is None:
        return None
    end = data.find(_HEAD_END)
    head = data[: end + 2].lower()
    if end < 0 or head.count(b"\ncontent-length") != 1 or _NOT_PLAIN.search(head):
        return None
    length = _LENGTH.search(head)
    if length is None or end + len(_HEAD_END) + int(length[1]) != len(data):
        return None
    return match[1].decode("latin-1")


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)
