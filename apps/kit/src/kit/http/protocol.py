"""uvicorn's HTTP/1.1 protocol, corrected where strangers' connections met its limits.

- `Upgrade` is ignored where nothing is upgraded (RFC 9110, 7.8), and the request keeps its body:
  the parser stops at the end of such a head, so the request is parsed again without the field.
- A client that closes only its sending side after its request is still answered.
- Bytes that are no HTTP are refused after the answers to the requests before them, never instead.
- A connection is closed so that its last answer arrives: bytes that still come from the client
  would make the system drop the answer (RFC 9112, 9.6).
- A head that RFC 9112 tells servers to refuse is refused: no Host or two of them, a transfer
  coding that is not undone here, another version of HTTP.
- Trailer fields never become header fields (RFC 9110, 6.5.1): they are dropped.

It sets no timer for a connection that waits for its next request: `kit.http.connections` closes
those that wait too long, which costs nothing per request.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from kit.http import problem
from kit.http.problem import Problem
from kit.telemetry import logs

log = logs.get("kit.http")

_PROBE_AFTER = 0.05
"""Seconds after a client closed its sending side at which it is asked whether it still reads."""
_LINGER = 2.0
"""Seconds for which a client may go on sending after the last answer of a connection."""
REFUSALS = {
    408: "head-too-slow",
    429: "too-many-pipelined",
    431: "head-too-large",
    503: "too-many-connections",
}
"""The problem types of what is refused for another reason than its syntax, by status."""
MOST_PIPELINED = 16
"""Requests of a connection that wait for its answers; each takes some 4 KiB."""
EVENT_STREAM = "slipway.event_stream"
"""Set in a request's scope whose answer has no end of its own: a client that closes is gone."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HeadRefused(Exception):  # noqa: N818 - as the errors of the services are named
    """A head that is refused with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection; see the module."""

    _unanswered = 0
    """Requests that are complete, less the answers that are: below 0 for an early answer."""
    _reading_head = True
    _upgrade_ignored = False
    """Whether the parser stops behind this head, which comes again without its upgrade."""
    _half_closed = False
    _lingering: asyncio.TimerHandle | None = None
    _broken: tuple[int, str] | None = None
    """Status and message of the last answer, where what came after the others is no HTTP."""
    _probe: asyncio.TimerHandle | None = None

    # -- Upgrade -----------------------------------------------------------------------------

    def _should_upgrade(self) -> bool:
        """Whether the connection becomes a WebSocket: an opening handshake and nothing else."""
        return (
            self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and any(name == b"sec-websocket-key" for name, _ in self.headers)
            and super()._should_upgrade()
        )

    def data_received(self, data: bytes) -> None:
        """Parse what came; what has no right answer any more is not parsed."""
        if self._broken is not None or self._lingering is not None:
            return
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                if self.parser.get_method() == b"CONNECT":
                    self._malformed(501, "CONNECT is not served here: this is no tunnel")
                    return
                # The parser takes everything after this head for another protocol.
                head = self._head_without_upgrade()
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError as error:
                cause = error.__context__
                if isinstance(cause, HeadRefused):
                    self._malformed(cause.status, str(cause))
                elif cause is None or isinstance(cause, httptools.HttpParserError):
                    self._malformed(400, f"the request is no HTTP/1.1: {cause or error}")
                else:  # raised by one of the callbacks: a defect of ours
                    log.error("unexpected error", exc_info=cause)
                    self._malformed(500, f"unexpected {type(cause).__name__}: see the log")
                return

    def _head_without_upgrade(self) -> bytes:
        """The head that was read, as if it had not asked for another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [
                    option for option in value.split(b",")
                    if option.strip().lower() not in (b"upgrade", b"http2-settings")
                ]  # fmt: skip
                if kept:
                    lines.append(b"connection: " + b",".join(kept).strip())
            elif name not in (b"upgrade", b"http2-settings"):
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # -- the parser's callbacks --------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request. Its scope is made when an application is to be called."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise HeadRefused(
                429,
                f"{MOST_PIPELINED} requests wait on this connection: send the next one when they "
                "are answered",
            )
        self._reading_head = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field; trailer fields come here too, after the body, and are dropped.

        It does what uvicorn's does, without the call: it runs for every field of every request.
        """
        if self._reading_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete; the one of an ignored upgrade comes again without it."""
        self._reading_head = False
        self._upgrade_ignored = self.parser.should_upgrade() and not self._should_upgrade()
        if self._upgrade_ignored:
            return
        self.check_head()
        self.on_head()

    def check_head(self) -> None:
        """Raise HeadRefused for what RFC 9112 tells servers to refuse and the parser lets by."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise HeadRefused(505, f"HTTP/{version} is not spoken here: send HTTP/1.1")
        hosts = codings = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings += 1
                if value.strip().lower() != b"chunked":
                    said = value.decode("latin-1")
                    raise HeadRefused(400, f"Transfer-Encoding {said!r} is not undone here")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise HeadRefused(400, f"{hosts} Host headers: a request has exactly one")
        if codings > 1:
            raise HeadRefused(400, "Transfer-Encoding is given twice")

    def on_head(self) -> None:
        """Call the application for a head, after the answers to the requests before it.

        uvicorn makes the scope at the first byte of a request, also where nobody wants it.
        """
        version, url = self.parser.get_http_version(), httptools.parse_url(self.url)
        raw_path = url.path or b"/"  # `http://host` has none (RFC 9112, 3.2.2)
        path = raw_path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": self.parser.get_method().decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": url.query or b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        if self.parser.should_upgrade():
            return  # the connection becomes a WebSocket
        before = self.cycle
        self.cycle = RequestResponseCycle(
            self.scope,
            cast("asyncio.Transport", self._answering),
            self.flow,
            self.logger,
            self.access_logger,
            self.access_log,
            self.server_state.default_headers,
            asyncio.Event(),
            self.expect_100_continue,
            version != "1.0" and self.parser.should_keep_alive(),
            self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    @cached_property
    def _answering(self) -> _AnsweringTransport:
        return _AnsweringTransport(self)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if not self._upgrade_ignored:
            self._unanswered += 1
            self.on_end()

    def on_end(self) -> None:
        """The body of a request that is to be answered is complete."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # there is none for a WebSocket
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """The answer is written: on to the next request, or to the end of the connection."""
        self.server_state.total_requests += 1
        self._unanswered -= 1
        if self._broken is not None and self._unanswered <= 0:
            self.pipeline.clear()
            self._malformed(*self._broken)
        if self._lingering is not None:
            self.pipeline.clear()
            self.flow.resume_reading()
        elif not self.transport.is_closing():  # as uvicorn does, without its timer
            self.flow.resume_reading()
            if self.pipeline:
                cycle, app = self.pipeline.pop()
                self._start_asgi_task(cycle, app)
        if self._half_closed and self._unanswered <= 0:
            self.transport.close()

    # -- the end of a connection -------------------------------------------------------------

    def close(self) -> None:
        """Close after the last answer: now for the client, later for what it still sends."""
        if self._half_closed or not self.transport.can_write_eof():
            self.transport.close()
        elif self._lingering is None and not self.transport.is_closing():
            self._lingering = self.loop.call_later(_LINGER, self.transport.close)
            self.transport.write_eof()
            self.flow.resume_reading()

    # -- bytes that are no HTTP --------------------------------------------------------------

    def _malformed(self, status: int, message: str) -> None:
        """Refuse, once the requests before have their answers; what follows cannot be parsed."""
        self._broken = status, message
        if self._unanswered > 0 or self._lingering is not None or self.transport.is_closing():
            return
        if self._unanswered == 0:  # else the request they belong to has its answer
            if status not in REFUSALS:  # those come by the thousand, and are counted
                log.warning("not HTTP", status=status, reason=message)
            media, body = self.refuse_bytes(status, message)
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b"
                % (status, HTTPStatus(status).phrase.encode(), media, len(body), body)
            )
        self.close()

    def refuse_bytes(self, status: int, message: str) -> tuple[bytes, bytes]:
        """Content type and body of the answer to what is no HTTP: here problem+json."""
        kind = REFUSALS.get(status, "malformed-http")
        return problem.MEDIA_TYPE.encode(), Problem(status, kind, message).body()

    # -- clients that close their sending side -----------------------------------------------

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the answers that are still to come, if there are any."""
        if self._unanswered <= 0 or self._lingering is not None or self.transport.is_closing():
            return False
        if getattr(self.cycle, "scope", {}).get(EVENT_STREAM):
            return False
        self._half_closed = True
        self._ask_whether_read(_PROBE_AFTER)
        return True

    def _ask_whether_read(self, pause: float) -> None:
        """After ``pause`` seconds, and then ever less often, see whether the client reads.

        One that closed both sides looks the same until something is sent to it, and work for
        it is in vain. An interim answer is what may be sent at any time: who reads it skips it,
        and who is gone refuses it, which ends the request as a hang-up does.
        """
        self._probe = self.loop.call_later(pause, self._send_interim, pause)

    def _send_interim(self, pause: float) -> None:
        started = getattr(self.cycle, "response_started", False)
        version = self.parser.get_http_version()
        if self.transport.is_closing() or started or version != "1.1":
            return
        if not self.pipeline:  # else the answer to an earlier request may have begun
            self.transport.write(_CONTINUE)
        self._ask_whether_read(2 * pause)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        for timer in (self._probe, self._lingering):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


class _AnsweringTransport:
    """A connection's transport as uvicorn's answers use it, closed as HttpProtocol closes."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: HttpProtocol) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.close
