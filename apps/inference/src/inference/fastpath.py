"""The short way for the request that nearly all requests are: POST …/infer, small and plain.

It is uvicorn's HTTP protocol with one more branch. A POST to an infer path with a
Content-Length of at most 1 MiB and no encoding is parsed, queued and answered from the protocol's
own callbacks: no scope, no task, no coroutine, one write. Everything else takes uvicorn's way
to the ASGI application, which answers the same requests with the same code and the same
result; the tests run both. What it saves is in docs/adr/0022.

Overload is refused here too, before the body is looked at: at ten thousand requests a second
saying no must cost far less than saying yes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.engine import PARSE_OFF_LOOP, Call
from inference.errors import Cancelled, InferenceError
from inference.http import Headers, content_length
from inference.models import ServedModel
from inference.protocol import InferRequest, encode, parse
from kit import logs

if TYPE_CHECKING:
    from inference.app import InferenceApp, Target
    from inference.batcher import Item

log = logs.get("inference.fastpath")

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_OK = _STATUS_LINES[200]
_JSON_LENGTH = b"inference-header-content-length"


class FastRequest:
    """A request on the short way. To the protocol it looks like uvicorn's request cycle."""

    __slots__ = (
        "app", "body", "call", "counted", "decoded", "disconnected", "item", "json_length",
        "keep_alive", "more_body", "name", "protocol", "refusal", "request", "response_complete",
        "served", "task", "version",
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
        """The headers are there: count the request in, or refuse it at once."""
        try:
            by_name = self.app.read_headers(headers, self.call)
            length = by_name.get(_JSON_LENGTH)
            if length is not None:
                self.json_length = content_length(length, "Inference-Header-Content-Length")
            self.app.engine.admit()
            self.counted = True
        except InferenceError as error:
            self.refusal = error

    def run(self) -> None:
        """The body is there: queue it."""
        if self.refusal is not None:
            self.refuse(self.refusal)
            return
        app, call = self.app, self.call
        try:
            served = app.registry.get(self.name, self.version)
            self.served = served
            if len(self.body) >= PARSE_OFF_LOOP:
                self.start(self.run_slowly(served))
                return
            request = parse(bytes(self.body), self.json_length, served)
            self.request = request
            if request.images is not None:
                self.start(self.run_slowly(served))
                return
            self.decoded = time.monotonic()
            served.lease()
            try:
                self.item = app.engine.submit(served, request, call, self.done)
            except InferenceError:
                served.release()
                raise
        except InferenceError as error:
            self.refuse(error)
        except Exception as error:
            self.refuse(_unexpected(error))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on in a task, which the server waits for when it stops."""
        tasks = self.protocol.tasks
        self.task = self.protocol.loop.create_task(work)
        tasks.add(self.task)
        self.task.add_done_callback(tasks.discard)

    async def run_slowly(self, served: ServedModel) -> None:
        """Large bodies are parsed, and raw images decoded, in a thread."""
        try:
            request = self.request
            if request is None:
                body = bytes(self.body)
                request = await asyncio.to_thread(parse, body, self.json_length, served)
                self.request = request
            answer = await self.app.engine.infer(served, request, self.call)
            self.respond(served, request, answer)
        except InferenceError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            self.refuse(Cancelled("the caller hung up"))
            raise
        except Exception as error:
            self.refuse(_unexpected(error))

    def done(self, item: Item) -> None:
        """The batcher is through with it."""
        served, request, app = self.served, self.request, self.app
        assert served is not None and request is not None
        try:
            answer = app.engine.answer(served, request, self.call, item, self.decoded)
            self.respond(served, request, answer)
        except InferenceError as error:
            self.refuse(error)
        except Exception as error:
            self.refuse(_unexpected(error))
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
        if json_length is None:
            head.append(b"content-type: application/json\r\n")
        else:
            head.append(
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % json_length
            )
        self.write(head, body)
        app.engine.succeeded(served, request, self.call, answer)

    def refuse(self, error: InferenceError) -> None:
        """Write an error and count it."""
        self.app.engine.failed(self.served, self.call, error)
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
            protocol.transport.close()
        protocol.on_response_complete()

    def finish(self) -> None:
        """Nothing more comes: free the place."""
        self.response_complete = True
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


class FastProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with the short way in it."""

    inference: InferenceApp
    fast: FastRequest | None = None

    def on_headers_complete(self) -> None:
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
        super().on_headers_complete()

    def _plain(self) -> bool:
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() else -1
            elif name in (b"transfer-encoding", b"content-encoding", b"upgrade"):
                return False
        return 0 <= length <= self.inference.short_way_limit

    def on_message_complete(self) -> None:
        """The body is complete."""
        if self.fast is None:
            super().on_message_complete()
        elif not self.fast.response_complete:
            self.fast.more_body = False
            self.fast.run()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self.fast is None:
            super().on_body(body)
        elif self.fast.refusal is None and not self.fast.response_complete:
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


def _unexpected(error: Exception) -> InferenceError:
    """A defect of ours: the request fails, the ones beside it do not."""
    log.error("unexpected error", exc_info=error)
    return InferenceError(f"unexpected {type(error).__name__}: see the server's log")


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)
