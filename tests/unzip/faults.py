"""A proxy before S3 that misbehaves on purpose: delays, cuts, resets, 503s."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.waits import SECONDS

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>no</Message></Error>"
_EXPIRED = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>no</Message></Error>"
KINDS = ("slow_down", "expired", "reset_before", "reset_after", "cut_answer", "delay")


@dataclass
class Faults:
    """``rate`` of all requests go wrong, in one of ``kinds``; ``happened`` counts them."""

    url: str
    rate: float = 0.0
    kinds: tuple[str, ...] = KINDS
    random: random.Random = field(default_factory=lambda: random.Random(5))
    happened: dict[str, int] = field(default_factory=dict)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    holds: Callable[[str, str], bool] | None = None
    """From the first request (method, path) of which this is true on, every one is held."""
    only_these: bool = False
    """Hold the requests of which ``holds`` is true, and no others."""
    held: threading.Event = field(default_factory=threading.Event)
    """Set once a request is held and none that came before it is under way any more."""
    released: threading.Event = field(default_factory=threading.Event)
    passing: int = 0

    def enter(self, method: str, path: str) -> None:
        """Let a request in, or hold it until ``released``."""
        with self.lock:
            hit = self.holds is not None and self.holds(method, path)
            self.closed = self.closed or hit
            closed = hit if self.only_these else self.closed
            self.passing += not closed
            self._note()
        if closed:
            assert self.released.wait(SECONDS)
            with self.lock:
                self.passing += 1

    def leave(self) -> None:
        """A request has been answered."""
        with self.lock:
            self.passing -= 1
            self._note()

    def _note(self) -> None:
        if self.closed and not self.passing:
            self.held.set()

    def choose(self) -> str:
        with self.lock:
            if self.random.random() >= self.rate:
                return ""
            kind = self.random.choice(self.kinds)
            self.happened[kind] = self.happened.get(kind, 0) + 1
            return kind


@contextmanager
def faulty(upstream: str) -> Iterator[Faults]:
    """Listen on a free port, pass everything on to ``upstream``, as far as the faults let it."""
    target = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reset(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                # A zero linger sends RST where close() would send FIN.
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            faults.enter(self.command, self.path)
            try:
                self._pass_on(body)
            finally:
                faults.leave()

        def _pass_on(self, body: bytes) -> None:
            kind = faults.choose()
            if kind == "reset_before":
                self._reset()
                return
            if kind in ("slow_down", "expired"):
                status, text = (503, _SLOW_DOWN) if kind == "slow_down" else (400, _EXPIRED)
                length = [("content-length", str(len(text)))]
                self._answer(status, length, text)
                return
            if kind == "delay":
                threading.Event().wait(0.3)
            connection = HTTPConnection(target, timeout=SECONDS)
            # The Host header is signed: it must go on as it came.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            headers = answer.getheaders()
            connection.close()
            if kind == "reset_after":
                self._reset()
                return
            if kind == "cut_answer" and len(data) > 1:
                self._answer(answer.status, headers, data[: len(data) // 2])
                self._reset()
                return
            self._answer(answer.status, headers, data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            return  # the client is meant to be hung up on

    server = Server(("127.0.0.1", 0), Handler)
    faults = Faults(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield faults
    finally:
        faults.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
