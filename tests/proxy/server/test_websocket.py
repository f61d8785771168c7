"""WebSockets whose frames are many and small: they keep nobody else from the proxy."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from proxy.server import websocket
from proxy.server.websocket import MOST_CONTROL_FRAMES, MOST_PIECES, BoundedWebSocket
from tests.proxy.conftest import Neighbour, Proxy, proxy_with


@pytest.fixture
async def proxy(upstream: Neighbour) -> AsyncIterator[Proxy]:
    async with proxy_with(upstreams={"users": {"url": f"{upstream.url}/base"}}) as found:
        yield found


CONT, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA
FIN = 0x80


def frame(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """A client's frame of at most 125 bytes, masked with zeros (RFC 6455, 5.2)."""
    return bytes([FIN * last | opcode, 0x80 | len(payload)]) + bytes(4) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and payload of a server's frame of at most 125 bytes."""
    first, size = await reader.readexactly(2)
    return first & 0xF, await reader.readexactly(size)


@asynccontextmanager
async def opened(
    proxy: Proxy, upstream: Neighbour
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket's bytes behind the handshake; the upstream sends every message back."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(message.data)
        return answer

    echo.streaming = True  # type: ignore[attr-defined]
    upstream.on("/base/ws", echo)
    address = urlsplit(proxy.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        b"GET /api/users/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    try:
        yield reader, writer
    finally:
        writer.close()


async def closing(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Code and reason of the server's Close, after whatever comes before it."""
    while True:
        opcode, payload = await read_frame(reader)
        if opcode == CLOSE:
            return struct.unpack(">H", payload[:2])[0], payload[2:].decode()


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_more_pings_and_pongs_than_anybody_needs_close_the_connection(
    proxy: Proxy, upstream: Neighbour, opcode: int
) -> None:
    """Found: four connections that sent only pings, or pongs, kept the proxy from everybody."""
    async with opened(proxy, upstream) as (reader, writer):
        writer.write(frame(opcode, b"x") * 40_000)
        code, reason = await closing(reader)
        assert code == 1008
        assert reason == f"more than {MOST_CONTROL_FRAMES} pings and pongs in a second"
    async with proxy.session.get(f"{proxy.url}/livez") as answer:
        assert answer.status == 200


async def test_usual_pings_are_answered(proxy: Proxy, upstream: Neighbour) -> None:
    async with opened(proxy, upstream) as (reader, writer):
        for number in range(MOST_CONTROL_FRAMES // 2):
            writer.write(frame(PING, b"%d" % number))
            assert await read_frame(reader) == (PONG, b"%d" % number)
        writer.write(frame(TEXT, b"still here"))
        assert await read_frame(reader) == (TEXT, b"still here")


async def test_a_message_in_very_many_pieces_closes_the_connection(
    proxy: Proxy, upstream: Neighbour
) -> None:
    """Empty pieces have no size to bound, and each was kept until the last."""
    async with opened(proxy, upstream) as (reader, writer):
        writer.write(frame(TEXT, b"a", last=False) + frame(CONT, b"b", last=False) * 99)
        writer.write(frame(CONT, b"c"))
        assert await read_frame(reader) == (TEXT, b"a" + b"b" * 99 + b"c")
        writer.write(frame(TEXT, last=False) + frame(CONT, last=False) * (MOST_PIECES + 1))
        code, reason = await closing(reader)
        assert code == 1008
        assert reason == f"a message in more than {MOST_PIECES} frames"


async def test_many_small_messages_in_one_read_are_parsed_with_other_work_in_between(
    proxy: Proxy, upstream: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = 0
    later = BoundedWebSocket._later

    def counted(socket: Any) -> None:
        nonlocal pauses
        pauses += 1
        later(socket)

    monkeypatch.setattr(BoundedWebSocket, "_later", counted)
    monkeypatch.setattr(websocket, "SLICE_SECONDS", 0.0)
    async with opened(proxy, upstream) as (reader, writer):
        writer.write(b"".join(frame(TEXT, b"%d" % number) for number in range(5000)))
        for number in range(5000):
            assert await read_frame(reader) == (TEXT, b"%d" % number)
    assert pauses > 10


async def test_a_large_message_passes_as_before(proxy: Proxy, upstream: Neighbour) -> None:
    async with opened(proxy, upstream):
        pass
    async with proxy.session.ws_connect(f"{proxy.url}/api/users/ws") as socket:
        for size in (1 << 20, 1, 300_000):
            await socket.send_str("x" * size)
            assert await socket.receive_str() == "x" * size
        await socket.close()
    assert socket.close_code == aiohttp.WSCloseCode.OK
