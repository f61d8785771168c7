"""Connections to a backend, kept and reused, and a request sent on one of them."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import AsyncIterable
from functools import lru_cache
from time import monotonic
from urllib.parse import urlsplit

from proxy.http.connection import BrokenError, Connection, DeadlineExceededError, RefusedError
from proxy.http.shared_timer import timer_of


def machine_authorities() -> ssl.SSLContext:
    """Trusts those whom this machine trusts, or whom SSL_CERT_FILE and SSL_CERT_DIR name now.

    They are read once, which takes longer than a request; nobody may change the context.
    """
    return _authorities(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _authorities(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The variables are the cache's key; OpenSSL reads them itself."""
    return ssl.create_default_context()


class Pool:
    """Connections to one address, the one used last first, so that the rest can age out."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float = 2.0,
        idle_seconds: float = 30.0,
        max_age_seconds: float = 300.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self.secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.secure else 80)
        self.base_path = parts.path.rstrip("/").encode()
        self.authority = parts.netloc.rsplit("@", 1)[-1].encode()
        self._tls = (tls or machine_authorities()) if self.secure else None
        self._connect_timeout = connect_timeout
        self._idle_seconds = idle_seconds
        self._max_age_seconds = max_age_seconds
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self.loop = asyncio.get_running_loop()
        self.timer = timer_of(self.loop)

    def idle(self) -> Connection | None:
        """A kept connection that is still good, or None."""
        now = monotonic()
        while self._idle:
            connection = self._idle.pop()
            if (
                connection.lost
                or now - connection.idle_since > self._idle_seconds
                or now - connection.born > self._max_age_seconds
            ):
                connection.close()
                continue
            return connection
        return None

    async def connect(self, *, deadline: float) -> Connection:
        """A new connection, before ``deadline`` (`time.monotonic`)."""
        allowed = min(self._connect_timeout, deadline - monotonic())
        if allowed <= 0:
            raise DeadlineExceededError("no time was left to connect", sent=False)
        try:
            async with asyncio.timeout(allowed):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self), self.host, self.port, ssl=self._tls
                )
        except TimeoutError:
            if allowed < self._connect_timeout:
                raise DeadlineExceededError("no time was left to connect", sent=False) from None
            raise RefusedError(
                f"{self.host}:{self.port} did not accept a connection within {allowed:.2f} s",
                sent=False,
            ) from None
        except OSError as error:
            raise RefusedError(
                f"no connection to {self.host}:{self.port}: {error.strerror or error}", sent=False
            ) from error
        self._all.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        connection.idle_since = monotonic()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self) -> None:
        """Close what has been idle for too long; called now and then."""
        now = monotonic()
        while self._idle and now - self._idle[0].idle_since > self._idle_seconds:
            self._idle.popleft().close()

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._all):
            connection.close()
        self._idle.clear()


async def request(
    pool: Pool,
    head: bytes,
    body: bytes | AsyncIterable[bytes],
    *,
    deadline: float,
    head_only: bool = False,
    repeatable: bool = True,
) -> Connection:
    """Ask a backend; the connection comes back with status and headers there.

    A kept connection that the backend closed meanwhile is replaced by a new one where the
    request can be repeated: it is bytes, and either nothing was sent or ``repeatable``.
    The caller must ``end()`` the connection.
    """
    connection = pool.idle()
    reused = connection is not None
    while True:
        if connection is None:
            connection = await pool.connect(deadline=deadline)
        try:
            if isinstance(body, bytes):
                connection.begin(head + body, deadline=deadline, head_only=head_only)
                await connection.head()
                return connection
            connection.begin(head, deadline=deadline, head_only=head_only)
            return await _stream(connection, body)
        except BrokenError as error:
            connection.end()
            if not reused or not isinstance(body, bytes) or (error.sent and not repeatable):
                raise
            connection, reused = None, False
        except BaseException:
            connection.end()
            raise


async def _stream(connection: Connection, body: AsyncIterable[bytes]) -> Connection:
    async for data in body:
        await connection.write(data)
        if connection.status or connection.failed:  # the rest of the body is not wanted
            connection.reusable = False
            break
    await connection.head()
    return connection
