"""Signed PUTs over connections that are kept: a third less CPU than any client library's.

An archive of many small files is mostly PUTs, and on both ends their cost is the client's way
of sending them (docs/unzip/storage.md). Only that is here; everything else goes through libraries.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httptools

from unzip.zip.headers import Buffer

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

_IDLE_SECONDS = 4.0  # servers hang up on idle connections; 5 s is the least usual patience
_READ = 64 << 10
_UNSIGNED = "UNSIGNED-PAYLOAD"


class GarbledError(OSError):
    """What came back is no complete HTTP answer."""


@dataclass(slots=True)
class Answer:
    """An HTTP answer; names of ``headers`` in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep: bool = False
    complete: bool = False
    _parser: httptools.HttpResponseParser | None = None

    def feed(self, data: bytes) -> None:
        """Take what came from the connection."""
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, chunk: bytes) -> None:
        """Called by the parser."""
        self.body += chunk

    def on_message_complete(self) -> None:
        """Called by the parser, which knows only here what the headers said."""
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self.keep = self._parser.should_keep_alive()
        self.complete = True


@dataclass(frozen=True, slots=True)
class Signer:
    """AWS Signature Version 4 for requests whose payload is not signed.

    The payload is protected by ``x-amz-checksum-crc32``, which is signed, and by TLS.
    """

    host: str
    region: str
    credentials: Callable[[], ReadOnlyCredentials]
    _keys: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def sign(self, method: str, path: str, headers: Mapping[str, str], at: float) -> dict[str, str]:
        """All headers to send for an encoded ``path`` at the Unix time ``at``."""
        who = self.credentials()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
        day = stamp[:8]
        named = {
            **headers,
            "host": self.host,
            "x-amz-content-sha256": _UNSIGNED,
            "x-amz-date": stamp,
        }
        if who.token:
            named["x-amz-security-token"] = who.token
        names = sorted(named)
        listed = ";".join(names)
        lines = "".join(f"{name}:{named[name]}\n" for name in names)
        request = f"{method}\n{path}\n\n{lines}\n{listed}\n{_UNSIGNED}"
        scope = f"{day}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key(str(who.secret_key), day), text.encode(), "sha256").hex()
        named["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={who.access_key}/{scope}, "
            f"SignedHeaders={listed}, Signature={signature}"
        )
        return named

    def _key(self, secret: str, day: str) -> bytes:
        found = self._keys.get((secret, day))
        if found is None:
            found = f"AWS4{secret}".encode()
            for step in (day, self.region, "s3", "aws4_request"):
                found = hmac.digest(found, step.encode(), "sha256")
            self._keys.clear()
            self._keys[secret, day] = found
        return found


def _close_all(idle: deque[tuple[socket.socket, float]]) -> None:
    for connection, _ in idle:
        connection.close()


def is_proxied(url: str) -> bool:
    """Whether the environment wants this address to be reached through a proxy."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


class PutClient:
    """PUTs to one S3 endpoint, by path; thread-safe, one connection per request under way."""

    def __init__(
        self,
        url: str,
        region: str,
        credentials: Callable[[], ReadOnlyCredentials],
        *,
        timeout_seconds: float,
        connections: int,
    ) -> None:
        parts = urlsplit(url)
        self._address = (
            parts.hostname or "",
            parts.port or (443 if parts.scheme == "https" else 80),
        )
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
        self._signer = Signer(parts.netloc, region, credentials)
        self._timeout = timeout_seconds
        self._most = connections
        self._idle: deque[tuple[socket.socket, float]] = deque()
        # Stores are not closed: what they leave open goes with them.
        weakref.finalize(self, _close_all, self._idle)

    def put(self, path: str, headers: Mapping[str, str], body: Buffer) -> Answer:
        """One PUT of ``body`` to ``path`` (not encoded); OSError where no answer comes."""
        encoded = quote(path, safe="/-_.~")
        signed = self._signer.sign("PUT", encoded, headers, time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        head = f"PUT {encoded} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode()
        connection = self._connection()
        try:
            answer = self._exchange(connection, head, body)
        except BaseException:
            connection.close()
            raise
        if answer.keep and len(self._idle) < self._most:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()
        return answer

    def _connection(self) -> socket.socket:
        with suppress(IndexError):
            while True:
                connection, since = self._idle.pop()
                if time.monotonic() - since < _IDLE_SECONDS:
                    return connection
                connection.close()
        connection = socket.create_connection(self._address, timeout=5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_hostname=self._address[0])
        connection.settimeout(self._timeout)
        return connection

    def _exchange(self, connection: socket.socket, head: bytes, body: Buffer) -> Answer:
        refused: OSError | None = None
        try:
            self._send(connection, head, memoryview(body))
        except OSError as error:
            refused = error  # a server may answer, and hang up, before it has read everything
        answer = Answer()
        try:
            while not answer.complete:
                data = connection.recv(_READ)
                if not data:
                    raise refused or GarbledError("the connection was closed before the answer")
                answer.feed(data)
        except httptools.HttpParserError as error:
            raise GarbledError(str(error)) from error
        except OSError as error:
            raise refused or error from error
        answer.keep = answer.keep and refused is None
        return answer

    def _send(self, connection: socket.socket, head: bytes, body: memoryview) -> None:
        if self._tls is not None:  # TLS has no sendmsg; one record instead of two for small ones
            connection.sendall(head + body if len(body) < _READ else head)
            if len(body) >= _READ:
                connection.sendall(body)
            return
        sent = connection.sendmsg((head, body)) - len(head)
        if sent < 0:
            connection.sendall(head[sent:])
            sent = 0
        if sent < len(body):
            connection.sendall(body[sent:])
