"""A connection to a backend: HTTP/1.1 on asyncio, parsed by llhttp, one exchange at a time.

Written by hand because it is the hot path: a general client builds URL, header and response
objects for every request, which costs several times what passing the bytes on does. It does
only what a proxy needs: bodies as bytes or streamed with back pressure in both directions, one
deadline, connections kept and reused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol, cast

import httptools

from proxy.http.shared_timer import SharedTimer

HIGH_WATER = 256 * 1024
HEAD_BYTES = 256 * 1024  # the largest head of an answer, trailers and framing likewise
BODILESS = frozenset({204, 304})


class UpstreamError(Exception):
    """A backend could not be asked. ``sent`` tells whether it may have seen the request."""

    reason = "upstream-error"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class RefusedError(UpstreamError):
    """No connection: refused, unresolvable, or not made in time."""

    reason = "upstream-unreachable"


class BrokenError(UpstreamError):
    """The connection ended before the answer did, or the answer was not HTTP."""

    reason = "upstream-broken"


class DeadlineExceededError(UpstreamError):
    """The answer did not come before the request's deadline."""

    reason = "deadline-exceeded"


class Owner(Protocol):
    """What a connection needs of the pool that it belongs to."""

    loop: asyncio.AbstractEventLoop
    timer: SharedTimer

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        ...

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        ...


class Connection(asyncio.Protocol):
    """One connection to a backend, and the exchange that is on it."""

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._loop = pool.loop
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.born = self.idle_since = monotonic()
        self.requests = 0
        self.lost = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = True
        self._reset(head_only=False)

    def _reset(self, *, head_only: bool) -> None:
        self._head_only = head_only
        self.status = 0
        self.headers = []
        self._have_head = False
        self.complete = False
        self.reusable = True
        self._framed = self._coded = False
        self._unread = 0  # bytes of the answer that are neither its head, once read, nor its body
        self.counted = False  # whether a Content-Length came with the headers
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drain: asyncio.Future[None] | None = None
        self.deadline = 0.0

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self.complete:  # bytes nobody asked for: whatever they are, do not reuse this
            self.close()
            return
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
            if self._unread > HEAD_BYTES and not self.complete:
                self._fail(BrokenError("the backend's headers or trailers never end", sent=True))
        except httptools.HttpParserUpgrade:
            self._fail(BrokenError("the backend switched protocols unasked", sent=True))
        except httptools.HttpParserError as error:
            self._fail(BrokenError(f"the backend's answer is not HTTP: {error}", sent=True))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reusable = False
        if not self.complete:
            if self._have_head and not self._framed:  # the end of the connection ends the body
                self.on_message_complete()
            else:
                self._fail(BrokenError("the backend closed the connection", sent=True))
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        self._pool.forget(self)

    def pause_writing(self) -> None:
        self._drain = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        self._drain = None

    # --- llhttp callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._have_head:  # a trailer, which is dropped: it never becomes a header
            return
        name = name.lower()
        if name == b"content-length":
            self._framed = self.counted = True
        elif name == b"transfer-encoding":
            # A coding beside `chunked` is for one hop, and nobody asked for one: what it is of
            # would reach the caller under no name.
            self._coded = self._coded or value.strip().lower() != b"chunked"
            self._framed = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._unread = 0
        if not 100 <= status < 600:
            self._fail(BrokenError(f"the backend's status {status} is none of HTTP", sent=True))
            return
        if 100 <= status < 200 and status != 101:  # interim: the answer is still to come
            self.headers = []
            self._framed = self._coded = self.counted = False
            return
        if self._coded:
            self._fail(BrokenError("the backend's answer is transfer-coded unasked", sent=True))
            return
        if status == 101:
            self._fail(BrokenError("the backend switched protocols unasked", sent=True))
            return
        self.status = status
        self._have_head = True
        if status in BODILESS:
            self._framed = True
        if status == 204:  # which has no length: a caller might wait for so many bytes
            self.headers = [pair for pair in self.headers if pair[0] != b"content-length"]
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._head_only:  # llhttp cannot know that no body follows; the connection is given up
            self.reusable = False
            self.complete = True
        self._wake()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return
        self._unread = 0
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if not self._have_head:
            return
        self.complete = True
        self._wake()

    # --- the exchange

    @property
    def failed(self) -> bool:
        """Whether the exchange has ended without an answer; ``head`` and ``chunk`` say why."""
        return self._error is not None

    def begin(self, head: bytes, *, deadline: float, head_only: bool = False) -> None:
        """Write a request's first bytes; the exchange ends by ``deadline`` (`time.monotonic`)."""
        self._reset(head_only=head_only)
        self.requests += 1
        self.deadline = deadline
        self._pool.timer.add(self)
        if self.transport is None or self.lost:
            self._fail(BrokenError("the backend closed the connection", sent=False))
            return
        self.transport.write(head)

    async def write(self, data: bytes) -> None:
        """Write more of the request's body, waiting while the backend does not take it."""
        if self.transport is None or self.lost or self._error is not None:
            return
        self.transport.write(data)
        if self._drain is not None:
            await self._drain

    async def head(self) -> int:
        """The status of the answer, as soon as its headers are there (``headers``)."""
        while not self._have_head:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
        return self.status

    @property
    def error(self) -> UpstreamError | None:
        """What ended the exchange before the answer was complete; None while nothing has."""
        return self._error

    async def chunk(self) -> bytes:
        """The next bytes of the answer's body; empty at its end."""
        while not self._chunks:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
        return self.arrived()

    def arrived(self) -> bytes:
        """What has come of the answer's body and was not read yet; nothing waits for more."""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        self._buffered = 0
        if self._paused and self.transport is not None:
            self._paused = False
            if not self.lost:
                self.transport.resume_reading()
        return data

    async def body(self, limit: int, hold: Callable[[int], None] = lambda _: None) -> bytes:
        """The complete body, at most ``limit`` bytes; ``hold`` gets the size of each part."""
        parts: list[bytes] = []
        size = 0
        while data := await self.chunk():
            size += len(data)
            if size > limit:
                raise BrokenError(f"the backend's answer is larger than {limit} bytes", sent=True)
            hold(len(data))
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extend(self, deadline: float) -> None:
        """Move the deadline; streams push it forward while bytes arrive."""
        self.deadline = deadline

    def end(self) -> None:
        """Give the connection back; it is closed where the exchange did not end cleanly."""
        self._pool.timer.remove(self)
        if self.complete and self.reusable and not self.lost and self._error is None:
            self._pool.release(self)
        else:
            self.close()

    def close(self) -> None:
        """Close the connection now."""
        self.reusable = False
        if self.transport is not None and not self.lost:
            self.transport.abort()

    def tick(self, now: float) -> None:
        """End the exchange once its deadline has passed."""
        if now >= self.deadline and not self.complete:
            self._fail(DeadlineExceededError("the backend did not answer in time", sent=True))

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
        self.close()
        self._wake()
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
