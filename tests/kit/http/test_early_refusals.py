"""kit.http.early_refusals: what is refused by its bytes alone, and the connection afterwards."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from kit.http import refusals
from kit.http.early_refusals import RefusingProtocol, is_whole_request
from kit.http.refusals import Refusals


def request(
    body: bytes = b"{}", *headers: str, line: str = "POST /v2/x HTTP/1.1", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    lines = [line, "Host: a", *headers, f"Content-Length: {size}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "data",
    [
        request(b"anything at all"),
        request(b""),
        request(b"", "Connection: keep-alive"),
        request(b"{}", line="PUT /a/b?c=d HTTP/1.1"),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_whole_plain_request_is_known_by_its_bytes(data: bytes) -> None:
    assert is_whole_request(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request(b"{}")[:-1],
        request(b"{}") + b"P",
        request(b"{}", length=3),
        request(b"{}", length=1),
        request(b"{}", "Transfer-Encoding: chunked"),
        request(b"{}", "transfer-encoding : chunked"),
        request(b"{}", "Expect: 100-continue"),
        request(b"{}", "Connection: close"),
        request(b"{}", "Upgrade: h2c"),
        request(b"{}", "content-length: 2"),
        request(b"{}", "content-length : 2"),
        request(b"{}").replace(b": 2", b": 2a"),
        request(b"{}").replace(b": 2", b": +2"),
        request(b"{}", line="POST /v2/x HTTP/1.0"),
        request(b"{}", line="POST http://a/ HTTP/1.1"),
        request(b"{}").replace(b"Content-Length: 2", b"Host: b"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_everything_else_is_for_the_parser(data: bytes) -> None:
    assert not is_whole_request(data)


@given(st.binary(max_size=300))
def test_any_body_of_the_right_length_is_the_whole_request(body: bytes) -> None:
    data = request(body)
    assert is_whole_request(data)
    assert not is_whole_request(data + b"x")
    assert not is_whole_request(data[:-1])


class Protocol(RefusingProtocol):
    """Refuses whatever the test says."""

    overload = True
    refused = 0
    pieces = 0

    def data_received(self, data: bytes) -> None:
        type(self).pieces += 1
        super().data_received(data)

    def overloaded(self, data: bytes) -> bool:
        return type(self).overload

    def refusal(self, data: bytes) -> bytes:
        type(self).refused += 1
        return b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-length", b"3")]})  # fmt: skip
    await send({"type": "http.response.body", "body": b"yes"})


NO, YES = b"no", b"yes"


async def until(condition: Any) -> None:
    async with asyncio.timeout(90):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[type[Protocol], int, uvicorn.Server]]:
    protocol = type("Tested", (Protocol,), {"refusals": Refusals()})
    config = uvicorn.Config(
        answer, http=protocol, port=0, host="127.0.0.1", lifespan="off", log_config=None,
        timeout_graceful_shutdown=5, **settings,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    try:
        yield protocol, server.servers[0].sockets[0].getsockname()[1], server
    finally:
        server.should_exit = True
        await task


async def read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(3 if b" 200 " in head else 2)


async def test_a_refused_connection_goes_on() -> None:
    async with serving() as (protocol, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        assert await read(reader) == NO
        protocol.overload = False
        writer.write(request())
        assert await read(reader) == YES
        protocol.overload = True
        writer.write(request())
        assert await read(reader) == NO
        writer.close()
        assert protocol.refused == 2


async def test_what_comes_in_pieces_or_behind_another_is_parsed() -> None:
    async with serving() as (protocol, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = request()
        writer.write(data[:30])
        await until(lambda: protocol.pieces == 1)
        writer.write(data[30:])
        assert await read(reader) == YES
        writer.write(request() + request())
        assert await read(reader) == YES
        assert await read(reader) == YES
        writer.close()


class NoTime(Refusals):
    """Has no time for a refusal until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []

    def add(self, refuse: Any, loop: Any) -> None:
        self.held.append(refuse)

    def go(self) -> None:
        held, self.held = self.held, []
        for refuse in held:
            refuse()


async def test_what_is_sent_while_a_refusal_waits_is_answered_next() -> None:
    async with serving() as (protocol, port, _):
        protocol.refusals = later = NoTime()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        await until(lambda: later.held)
        writer.write(request() + request())
        await asyncio.sleep(0.05)
        protocol.overload = False
        later.go()
        assert [await read(reader) for _ in range(3)] == [NO, YES, YES]
        writer.close()


async def test_who_hangs_up_before_its_refusal_is_forgotten() -> None:
    async with serving() as (protocol, port, server):
        protocol.refusals = later = NoTime()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        await until(lambda: later.held)
        # closed so, it sends a reset: without one nobody can tell that it does not read
        socket_ = writer.get_extra_info("socket")
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await until(lambda: not server.server_state.connections)
        later.go()
        assert protocol.refused == 0


async def test_who_closes_its_sending_side_and_who_waits_at_the_end_are_told() -> None:
    async with serving() as (protocol, port, server):
        protocol.refusals = later = NoTime()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        writer.write_eof()
        assert await read(reader) == NO
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        await until(lambda: len(later.held) == 2)
        server.should_exit = True
        assert await read(reader) == NO
        writer.close()


async def test_a_connection_that_is_only_ever_refused_is_closed_when_it_idles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "PAUSE", 0.0)
    async with serving(timeout_keep_alive=1) as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        assert await read(reader) == NO
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
