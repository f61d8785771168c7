"""Bounds on what one connection to a server, and all of them together, may take.

uvicorn waits for the rest of a request for ever, keeps any number of connections and takes a
head of any length. Here each part of a request has its time and its bytes.

Nothing is timed per request: once a second every connection is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from heapq import nsmallest
from time import monotonic
from typing import Any, ClassVar, cast

from prometheus_client import CollectorRegistry, Counter

from kit.http.protocol import HeadRefused, HttpProtocol
from kit.telemetry import logs

log = logs.get("kit.http.connections")

SWEEP_SECONDS = 1.0
RECENT_SECONDS = 0.5
"""A connection that went on so recently is passed by: with thousands of them a look costs time."""
LOG_SECONDS = 10.0
CHUNK_FRAME_BYTES = 16  # what a chunk of a body may cost beside its data
MOST_FIELDS = 256
"""Fields of a head. Each takes some 150 bytes as Python objects, however short it is."""
SMALL_HEAD_BYTES = 8 * 1024
SMALL_HEAD_FIELDS = 64
"""A head of more bytes or fields is a large one: as nginx and Envoy see it, an unusual one."""
DRAINED_BYTES = 16 * 1024  # what a caller must take of an answer in `answer_seconds`
TOO_MANY_FIELDS = f"the head has more than {MOST_FIELDS} fields"
LARGE_HEADS = (
    "the server holds as many large heads as it has memory for: send fewer or shorter header "
    "fields, or try again shortly"
)
REGISTRY = CollectorRegistry()
CLOSED = Counter(
    "http_server_connections_closed",
    "Connections the server closed on its own, by reason.",
    ("reason",),
    registry=REGISTRY,
)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one server. Times in seconds; ``connections`` counts all that are open."""

    connections: int = 4096
    head_seconds: float = 20.0
    """From the connection, or the first byte of a request, to the end of its head; and for the
    rest of a body that was answered before it was there."""
    body_seconds: float = 300.0
    answer_seconds: float = 60.0
    """A caller that takes less than 16 KiB of an answer in this time is given up."""
    head_bytes: int = 65536
    large_heads: int = 4096
    """Requests under way whose heads are large (`SMALL_HEAD_BYTES`): a bound of memory."""


class Phase(Enum):
    """What the parser of a connection waits for."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"
    """The request is there; its answer, or the next request, is on its way."""


class BoundedProtocol(HttpProtocol):
    """An HTTP connection that is given up where it takes more than its limits."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    phase = Phase.HEAD
    since = 0.0
    """When the phase began (`time.monotonic`)."""
    heard = False
    """Whether anything came yet."""
    inside = False
    """Whether the parser is inside a request."""
    _served = False
    _received = 0
    _head_bytes = 0
    """Bytes of a head, but for the read in which it began."""
    _begun_in = 0
    """Bytes of that read, of which some may belong to the request before."""
    excess = 0
    """Bytes that came since the head and are no data of the body."""
    _large_head = False
    _unsent = -1
    _unsent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless all that may be open are busy."""
        super().connection_made(transport)
        self.headers = []  # uvicorn makes the list with the first byte of a request
        self.since = monotonic()
        watch = _watch_of(self)
        if len(self.connections) > self.limits.connections and not watch.make_room(self):
            watch.count("limit")
            self.refuse(503, "the server has as many connections as it takes; try again shortly")

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse a head or a framing that outgrows its bound."""
        self.heard = True
        self._received = len(data)
        super().data_received(data)
        if self.phase is Phase.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                _watch_of(self).count("head-bytes")
                self.refuse(431, f"the head is larger than {self.limits.head_bytes} bytes")
            elif len(self.headers) > MOST_FIELDS:
                _watch_of(self).count("head-fields")
                self.refuse(431, TOO_MANY_FIELDS)
            elif self._is_large(self._begun_in + self._head_bytes) and not self._hold_large_head():
                self.refuse(503, LARGE_HEADS)
        elif self.phase is Phase.BODY:
            self.excess += len(data)
            if self.excess > self.limits.head_bytes:
                _watch_of(self).count("body-framing")
                self.refuse(400, "the body is nearly all framing, or its trailers are too large")

    def answered_unparsed(self) -> None:
        """For a subclass that answers a complete request unparsed: the caller is active."""
        self.heard = self._served = True
        self.phase = Phase.NOTHING
        self.since = monotonic()

    def on_response_complete(self) -> None:
        """An answer is written: from now on the caller is waited for."""
        if self.phase is not Phase.HEAD:
            self.since = monotonic()
        if self._large_head and self.phase is Phase.NOTHING and not self.pipeline:
            self._let_go_of_large_head()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._let_go_of_large_head()
        super().connection_lost(exc)

    # --- heads that take more memory than usual

    def _is_large(self, size: int) -> bool:
        return size > SMALL_HEAD_BYTES or len(self.headers) > SMALL_HEAD_FIELDS

    def _check_large_head(self) -> None:
        """Raise HeadRefused for a complete head that is too large, or one large one too many."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.head_bytes:
            raise HeadRefused(431, f"the head is larger than {self.limits.head_bytes} bytes")
        if len(self.headers) > MOST_FIELDS:
            raise HeadRefused(431, TOO_MANY_FIELDS)
        if not self._is_large(size):
            self._let_go_of_large_head()
        elif not self._hold_large_head():
            raise HeadRefused(503, LARGE_HEADS)

    def _hold_large_head(self) -> bool:
        """Count this connection among those with a large head; False where there are too many."""
        if not self._large_head:
            watch = _watch_of(self)
            if watch.large_heads >= self.limits.large_heads:
                watch.count("large-heads")
                return False
            watch.large_heads += 1
            self._large_head = True
        return True

    def _let_go_of_large_head(self) -> None:
        if self._large_head:
            self._large_head = False
            _watch_of(self).large_heads -= 1

    # --- llhttp callbacks

    def on_message_begin(self) -> None:
        """The first byte of a request. The bytes before it in the same read count for nothing."""
        super().on_message_begin()
        self.inside = True
        self.phase = Phase.HEAD
        self.since = monotonic()
        self._head_bytes = -self._received
        self._begun_in = self._received

    def on_headers_complete(self) -> None:
        """The head is there."""
        self.phase = Phase.BODY
        self.since = monotonic()
        self.excess = -self._received
        # all of this read may be the head's: what is small even so need not be counted
        if self._is_large(self._begun_in + self._head_bytes + self._received):
            self._check_large_head()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Another chunk of a body."""
        self.excess -= CHUNK_FRAME_BYTES

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.excess -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self.inside = False
        self.phase = Phase.NOTHING
        self._served = True
        super().on_message_complete()

    # --- what the watch asks

    @property
    def waiting(self) -> bool:
        """Whether nobody would lose an answer if the connection were closed now."""
        if self.phase is Phase.BODY:
            return False
        return self.cycle is None or self.cycle.response_complete

    @property
    def age(self) -> tuple[bool, float]:
        """For ordering: who never sent a complete request goes first, then who waits longest."""
        return self._served, self.since

    def overdue(self, now: float) -> str:
        """Why the connection is to be given up; empty where it is not."""
        if now - self.since < RECENT_SECONDS and not self.flow.write_paused:
            self._unsent = -1
            return ""
        limits = self.limits
        if self._write_stalls(now):
            return "answer-not-taken"
        if self.flow.read_paused or self.flow.write_paused:  # nobody waits for the caller now
            self.since = now
            return ""
        waited = now - self.since
        if self.phase is Phase.HEAD and waited > limits.head_seconds:
            return "head" if self.heard else "silent"
        answered = self.cycle is None or self.cycle.response_complete
        if self.phase is Phase.BODY:
            if waited > (limits.head_seconds if answered else limits.body_seconds):
                return "body"
        elif self.phase is Phase.NOTHING and answered and waited > self.timeout_keep_alive:
            return "idle"
        return ""

    def _write_stalls(self, now: float) -> bool:
        if not self.flow.write_paused and not self.transport.is_closing():
            self._unsent = -1
            return False
        size = self.transport.get_write_buffer_size()
        if self._unsent < 0 or size <= self._unsent - DRAINED_BYTES:
            self._unsent, self._unsent_since = size, now
        return now - self._unsent_since > self.limits.answer_seconds

    def give_up(self, reason: str) -> None:
        """Close, with an answer where the caller is in the middle of a request's head."""
        if reason == "head":
            self.refuse(408, f"the head did not arrive within {self.limits.head_seconds:g} s")
        elif reason == "answer-not-taken":
            self.transport.abort()
        else:
            self.transport.close()

    def refuse(self, status: int, message: str) -> None:
        """An answer without the application, after those under way, and the end."""
        if getattr(self.cycle, "response_started", False) and not self.cycle.response_complete:
            self.transport.close()  # half of another answer is there
        else:
            self._malformed(status, message)


class ConnectionWatch:
    """Looks at every connection of a server once a second, while there are any."""

    def __init__(self, connections: Iterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._connections = connections  # uvicorn's own set
        self._loop = loop
        self._ticking = False
        self.large_heads = 0
        self._closed: dict[str, int] = {}
        self._logged = float("-inf")

    def start(self) -> None:
        """Go on looking, if it had ended for want of connections."""
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(SWEEP_SECONDS, self._tick)

    def sweep(self, now: float) -> None:
        """Give up what is overdue at ``now`` (`time.monotonic`)."""
        for each in self._bounded():
            reason = each.overdue(now)
            if reason:
                self.count(reason)
                each.give_up(reason)

    def make_room(self, newcomer: BoundedProtocol) -> bool:
        """Close some of the connections that wait for a caller; False where there are none.

        Several at a time, because finding them means looking at all.
        """
        waiting = [each for each in self._bounded() if each is not newcomer and each.waiting]
        some = max(1, newcomer.limits.connections // 32)
        for each in nsmallest(some, waiting, key=lambda found: found.age):
            self.count("made-room")
            each.connections.discard(each)
            each.transport.abort()
        return bool(waiting)

    def count(self, reason: str) -> None:
        """Count a connection that was closed; the log says so now and then."""
        CLOSED.labels(reason).inc()
        self._closed[reason] = self._closed.get(reason, 0) + 1
        now = self._loop.time()
        if now - self._logged > LOG_SECONDS:
            self._logged = now
            log.warning("connections closed", **self._closed)
            self._closed = {}

    def _bounded(self) -> list[BoundedProtocol]:
        return [each for each in self._connections if isinstance(each, BoundedProtocol)]

    def _tick(self) -> None:
        self.sweep(monotonic())
        if self._connections:
            self._loop.call_later(SWEEP_SECONDS, self._tick)
        else:
            self._ticking = False


def _watch_of(protocol: BoundedProtocol) -> ConnectionWatch:
    """The watch of the server that a connection belongs to."""
    state = vars(protocol.server_state)
    watch = state.get("connection_watch")
    if watch is None:
        watch = state["connection_watch"] = ConnectionWatch(protocol.connections, protocol.loop)
    watch.start()
    return cast(ConnectionWatch, watch)
