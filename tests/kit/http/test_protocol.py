"""kit.http.protocol over real sockets: what uvicorn's own protocol answers wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from kit.http import protocol as http_protocol
from kit.http.protocol import HttpProtocol
from tests.waits import SECONDS


@dataclass
class Server:
    """A server that answers each request with its method, path and body."""

    port: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    started: int = 0
    hung_up: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.started += 1
        self.headers.append(scope["headers"])
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.hung_up += 1
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/slow":
            gone = asyncio.create_task(receive())
            free = asyncio.create_task(self.hold.wait())
            await asyncio.wait((gone, free), return_when=asyncio.FIRST_COMPLETED)
            free.cancel()
            if gone.done():
                self.hung_up += 1
                return
            gone.cancel()
        said = f"{scope['method']} {scope['path']} ".encode() + body
        length = [(b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": said})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, data: bytes) -> bytes:
        """Everything that is answered until the server closes."""
        reader, writer = await self.connect()
        writer.write(data)
        said = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(SECONDS):
                while part := await reader.read(65536):
                    said += part
        writer.close()
        return said


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(90):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    app = Server()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app.port = listener.getsockname()[1]
        config = uvicorn.Config(app, http=HttpProtocol, loop="asyncio", lifespan="off",
                                log_config=None, access_log=False,
                                timeout_graceful_shutdown=5)  # fmt: skip
        running = uvicorn.Server(config)
        running.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(running._serve([listener]))
        await until(lambda: running.started)
        yield app
        app.hold.set()
        running.should_exit = True
        await task


def bodies(said: bytes) -> list[bytes]:
    """The bodies of answers that each have a Content-Length."""
    found = []
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 1"):
            continue
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        found.append(said[:length])
        said = said[length:]
    return found


H2C = (
    b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings%b\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
)
CLOSE = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0", b"unheard-of/7"])
async def test_an_upgrade_that_is_not_made_is_ignored_and_the_body_read(
    server: Server, protocol: bytes, rest: bytes
) -> None:
    request = (H2C % b"").replace(b"h2c\r\n", protocol + b"\r\n") + rest
    assert bodies(await server.ask(request + CLOSE)) == [b"POST /p hello", b"GET /last "]
    assert b"upgrade" not in dict(server.headers[0])
    # in single bytes, with the next request behind it, and twice on one connection
    reader, writer = await server.connect()
    for byte in request + request:
        writer.write(bytes([byte]))
        await writer.drain()
    writer.write(CLOSE)
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert bodies(said) == [b"POST /p hello", b"POST /p hello", b"GET /last "]


async def test_what_else_the_connection_header_says_of_an_ignored_upgrade_is_kept(
    server: Server,
) -> None:
    reader, writer = await server.connect()
    writer.write(H2C % b", close" + b"\r\n")
    # It closes because it was told to: by itself it would keep the connection for longer.
    said = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    assert b"connection: close" in said
    assert bodies(said) == [b"POST /p "]


async def test_a_tunnel_is_refused_by_name(server: Server) -> None:
    said = await server.ask(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\nsecret")
    assert said.startswith(b"HTTP/1.1 501 Not Implemented\r\n")
    assert b"CONNECT is not served" in said
    assert server.started == 0


async def test_a_client_that_closed_its_sending_side_is_answered(server: Server) -> None:
    reader, writer = await server.connect()
    writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" + CLOSE[:-30]
                 + b"\r\n\r\n")  # fmt: skip
    writer.write_eof()
    await until(lambda: server.started > 0)
    server.hold.set()
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert bodies(said)[0] == b"POST /slow hi"


async def test_a_half_closed_client_that_waits_long_is_asked_whether_it_reads(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "_PROBE_AFTER", 0.001)
    reader, writer = await server.connect()
    writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    writer.write_eof()
    assert await asyncio.wait_for(reader.readline(), 20) == b"HTTP/1.1 100 Continue\r\n"
    server.hold.set()
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert bodies(said.removeprefix(b"\r\n"))[-1] == b"POST /slow hi"
    assert server.hung_up == 0


async def test_a_client_that_is_gone_is_noticed_though_it_looks_half_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "_PROBE_AFTER", 0.001)
    _, writer = await server.connect()
    writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    await until(lambda: server.started > 0)
    writer.close()
    await until(lambda: server.hung_up > 0)


async def test_a_client_that_closes_inside_its_request_is_gone(server: Server) -> None:
    reader, writer = await server.connect()
    writer.write(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nhi")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


async def test_bytes_that_are_no_http_do_not_take_the_answer_of_the_request_before(
    server: Server,
) -> None:
    reader, writer = await server.connect()
    writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi\x00\x01\r\n\r\n")
    await until(lambda: server.started > 0)
    server.hold.set()
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.count(b"HTTP/1.1 400 Bad Request\r\n") == 1
    assert b"application/problem+json" in said
    assert bodies(said)[0] == b"POST /slow hi"


async def test_trailers_never_become_headers(server: Server) -> None:
    said = await server.ask(
        b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Host\r\n\r\n"
        b"2\r\nhi\r\n0\r\nHost: evil\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n" + CLOSE
    )
    assert bodies(said) == [b"POST /p hi", b"GET /last "]
    assert dict(server.headers[0]) == {
        b"host": b"x", b"transfer-encoding": b"chunked", b"trailer": b"Host",
    }  # fmt: skip


async def test_the_last_answer_arrives_though_the_client_still_sends(server: Server) -> None:
    """Closing with bytes unread made the system reset the connection and drop the answer."""
    reader, writer = await server.connect()
    writer.write(b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    for _ in range(50):
        writer.write(b"more" * 1000)
        await asyncio.sleep(0)
    await until(lambda: server.started > 0)
    for _ in range(50):
        writer.write(b"more" * 1000)
        await writer.drain()
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert bodies(said) == [b"POST /p "]
    assert server.started == 1


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /p HTTP/1.1\r\n", b"400 Bad Request"),
        (b"GET /p HTTP/1.1\r\nHost: x\r\nHost: x\r\n", b"400 Bad Request"),
        (b"GET /p HTTP/2.0\r\nHost: x\r\n", b"505 HTTP Version Not Supported"),
        (
            b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n",
            b"400 Bad Request",
        ),
    ],
)
async def test_heads_that_must_be_refused_are(server: Server, head: bytes, status: bytes) -> None:
    said = await server.ask(head + b"\r\n0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert server.started == 0
