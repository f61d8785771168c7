"""A TCP proxy that can be made slow, cut, reset or deaf: what networks do between neighbours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Toxic:
    """Between one client and one server. Change the fields at any time."""

    url: str = ""
    latency: float = 0.0  # seconds each chunk of the answer waits
    cut_after: int | None = None  # close after so many bytes of an answer
    reset_after: int | None = None  # the same, by a TCP reset
    deaf: bool = False  # accept, and never answer
    connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Close every connection now."""
        for writer in list(self._writers):
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


@asynccontextmanager
async def toxic(url: str) -> AsyncIterator[Toxic]:
    """A running Toxic in front of ``url``; its own ``url`` is where to ask."""
    parts = urlsplit(url)
    state = Toxic()
    tasks: set[asyncio.Task[None]] = set()

    async def upward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def downward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await reader.read(65536):
            if state.latency:
                await asyncio.sleep(state.latency)
            for limit, end in ((state.cut_after, writer.close), (state.reset_after, None)):
                if limit is not None and passed + len(data) >= limit:
                    writer.write(data[: limit - passed])
                    with contextlib.suppress(ConnectionError):
                        await writer.drain()
                    if end is None:
                        _reset(writer)
                    else:
                        end()
                    return
            passed += len(data)
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        state._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            if state.deaf:
                await reader.read(-1)
                return
            server, other = await asyncio.open_connection(parts.hostname, parts.port)
            pumps = [
                asyncio.create_task(upward(reader, other)),
                asyncio.create_task(downward(server, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            state._writers.discard(writer)
            tasks.discard(task)
            for each in (writer, other):
                if each is not None:
                    each.close()
                    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                        await each.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


async def speak(url: str, sent: bytes, *, seconds: float = 5.0) -> bytes:
    """Write bytes to a server and read until it closes or is silent for a moment."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    found = b""
    try:
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while data := await reader.read(65536):
                    found += data
                    if _whole(found):
                        break
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return found


def _whole(found: bytes) -> bool:
    head, separator, body = found.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return _whole(body)
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return head.lower().find(b"transfer-encoding: chunked") < 0 or body.endswith(b"0\r\n\r\n")
