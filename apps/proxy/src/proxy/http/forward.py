"""Passing a request through: bytes in, bytes out, nothing decoded on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from starlette.types import Message, Receive

from kit.http.protocol import EVENT_STREAM
from proxy.http import deadline as deadlines
from proxy.http import headers
from proxy.http.body import HungUp, body_of
from proxy.http.client import Pool
from proxy.http.connection import BODILESS, UpstreamError
from proxy.http.destination import Destination, Exchange
from proxy.http.request import Request
from proxy.http.shared_timer import SharedTimer, timer_of

HANG_UP_WATCH_SECONDS = 0.05
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def request_head(
    request: Request,
    pool: Pool,
    target: bytes,
    *,
    length: int | None,
    left: float,
    margin: float,
    dropped: frozenset[bytes],
    more: bytes = b"",
) -> bytes:
    """The head of the request to the next hop. ``target`` is path and query."""
    parts = [
        request.method.encode(),
        b" ",
        pool.base_path,
        target,
        b" HTTP/1.1\r\nhost: ",
        pool.authority,
        b"\r\nx-request-id: ",
        request.request_id,
        b"\r\ntraceparent: ",
        request.traceparent,
        b"\r\nx-request-timeout: ",
        deadlines.passed_on(left, margin=margin),
        b"\r\n",
        more,
    ]
    if length is None:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif length or request.method not in SAFE:
        parts.append(b"content-length: %d\r\n" % length)
    if request.shadow:
        parts.append(b"x-slipway-shadow: true\r\n")
    if request.arm:
        parts += (b"x-slipway-arm: ", request.arm, b"\r\n")
    for name, value in headers.passable(request.headers, dropped):
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def forwarding_headers(request: Request) -> bytes:
    """Who asked, for upstreams that want to know."""
    host = request.header(b"host") or b""
    scheme = request.header(b"x-forwarded-proto") or request.scope["scheme"].encode()
    proto = b"https" if scheme == b"https" else b"http"
    return b"x-forwarded-for: %b\r\nx-forwarded-host: %b\r\nx-forwarded-proto: %b\r\n" % (
        ", ".join(request.forwarded).encode("latin-1", "replace"),
        host,
        proto,
    )


class HangUpWatch:
    """Cancels the serving task when the caller hangs up.

    Watching costs a task, so it begins only once a request has lasted a while. The body must
    have been read; what the watch takes from ``receive`` is lost.
    """

    __slots__ = ("_due", "_receive", "_serving", "_timer", "_watcher", "hung_up")

    def __init__(self, receive: Receive, timer: SharedTimer, now: float) -> None:
        self._receive = receive
        # The loop is named because to look it up is a call to the kernel.
        self._serving = asyncio.current_task(timer.loop)
        self._watcher: asyncio.Task[None] | None = None
        self._due = now + HANG_UP_WATCH_SECONDS
        self._timer = timer
        self.hung_up = False
        timer.add(self)

    def tick(self, now: float) -> None:
        """Begin to watch once it has lasted a while."""
        if now >= self._due:
            self._timer.remove(self)
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.hung_up = True
        if self._serving is not None:
            self._serving.cancel()

    def stop(self) -> None:
        """Look no more."""
        self._timer.remove(self)
        if self._watcher is not None:
            self._watcher.cancel()

    def explained(self, error: asyncio.CancelledError) -> BaseException:
        """HungUp where the cancellation was ours, the cancellation itself where not."""
        if self.hung_up and self._serving is not None:
            self._serving.uncancel()
            return HungUp()
        return error


@contextmanager
def watched(request: Request) -> Iterator[None]:
    """Cancel what goes on inside once the caller hangs up. The body must have been read."""
    watch = HangUpWatch(request.receive, timer_of(asyncio.get_running_loop()), monotonic())
    try:
        yield
    except asyncio.CancelledError as error:
        raise watch.explained(error) from None
    finally:
        watch.stop()


async def forward(
    request: Request,
    destination: Destination,
    target: bytes,
    *,
    limit: int,
    margin: float,
    dropped: frozenset[bytes],
    repeatable: bool,
    now: float,
    more: bytes = b"",
    idle_seconds: float | None = None,
    slowest: int = 1,
) -> None:
    """Send the request on and its answer back.

    ``idle_seconds``: once the headers of the answer are there, the body may take as long as it
    likes while bytes arrive this often. Event streams always may. Raises Problem before the
    answer began; afterwards a failure closes the caller's connection, so that it cannot mistake
    half an answer for a complete one.
    """
    deadline = min(request.deadline, now + destination.timeout)
    body, length = await body_of(request, limit, deadline, slowest)
    timer = destination.timer
    watch = HangUpWatch(request.receive, timer, now) if isinstance(body, bytes) else None
    try:
        exchange = await destination.ask(
            lambda pool, left: request_head(
                request,
                pool,
                target,
                length=length,
                left=left,
                margin=margin,
                dropped=dropped,
                more=more,
            ),
            body,
            deadline=deadline,
            repeatable=repeatable,
            head_only=request.method == "HEAD",
            caller=request.caller_name,
        )
        try:
            if watch is None:
                watch = HangUpWatch(request.receive, timer, monotonic())
            await _answer(request, exchange, watch, idle_seconds)
        finally:
            exchange.end()
    except asyncio.CancelledError as error:
        raise (watch.explained(error) if watch is not None else error) from None
    finally:
        if watch is not None:
            watch.stop()


async def _answer(
    request: Request, exchange: Exchange, watch: HangUpWatch, idle_seconds: float | None
) -> None:
    connection = exchange.connection
    request.upstream_seconds += exchange.seconds
    request.note(connection.headers)
    passed = headers.passable(connection.headers, headers.ANSWER_DROPPED)
    send = request.send
    if connection.complete:
        watch.stop()
        data = connection.arrived()
        if not (connection.counted or request.method == "HEAD" or connection.status in BODILESS):
            # Its chunks or the connection's end marked its end, and neither is passed on.
            passed.append((b"content-length", b"%d" % len(data)))
        if request.write_complete is not None and request.write_complete(
            connection.status, passed, data
        ):
            return
    start: Message = {
        "type": "http.response.start",
        "status": connection.status,
        "headers": passed,
    }
    if connection.complete:
        exchange.end()  # a caller that does not take its answer must not count as under way there
        await send(start)
        await send({"type": "http.response.body", "body": data})
        return

    async def pass_on(message: Message) -> None:
        async with asyncio.timeout(connection.deadline - monotonic()):
            await send(message)

    if _is_event_stream(passed):
        request.scope[EVENT_STREAM] = True
        idle_seconds = 300.0 if idle_seconds is None else idle_seconds
    if idle_seconds is not None:
        exchange.count_as_good()
    try:
        await pass_on(start)
        while True:
            if idle_seconds is not None:
                connection.extend(monotonic() + idle_seconds)
            data = await connection.chunk()
            if not data:
                break
            await pass_on({"type": "http.response.body", "body": data, "more_body": True})
        watch.stop()
        await pass_on({"type": "http.response.body", "body": b""})
    except UpstreamError as error:
        request.error = error.reason
        raise Truncated(str(error)) from error
    except TimeoutError as error:
        request.error = "answer-not-taken"
        raise Truncated("the caller did not take the answer in time") from error


class Truncated(Exception):  # noqa: N818 - what happened, not a fault
    """The backend failed in the middle of its answer, or the caller did not take it."""


def _is_event_stream(answer_headers: list[tuple[bytes, bytes]]) -> bool:
    value = headers.get(answer_headers, b"content-type") or b""
    return value.startswith(b"text/event-stream")
