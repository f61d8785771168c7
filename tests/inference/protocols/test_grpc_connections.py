"""Connections of gRPC that ask for much and send little: what they may hold is bounded."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from inference.protocols.grpc.server import MOST_STREAMS
from tests.inference import small_models
from tests.inference.conftest import Serve
from tests.memory import peak
from tests.ports import free_port
from tests.proxy.processes import running

MEBIBYTE = 1 << 20
LIMIT = 768 * MEBIBYTE
"""The model server's memory limit in values/base."""
HEADERS, SETTINGS, PING, CONTINUATION = 1, 4, 6, 9
END_HEADERS = 4
MAX_CONCURRENT_STREAMS = 3
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    size = struct.pack(">I", len(payload))[1:]
    return size + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that is not indexed (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


CALL = (
    b"\x83\x86"  # :method POST, :scheme http
    + literal(b":path", b"/inference.GRPCInferenceService/ModelInfer")
    + literal(b":authority", b"x")
    + literal(b"content-type", b"application/grpc")
    + literal(b"te", b"trailers")
)


async def read_until(reader: asyncio.StreamReader, kind: int, flags: int = 0) -> bytes:
    """The payload of the next frame of this kind and these flags."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == kind and head[4] & flags == flags:
            return payload


async def test_a_connection_has_a_bounded_number_of_calls(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "m", "1", small_models.affine())
    async with serve() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc_port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        said = await read_until(reader, SETTINGS)
        found = dict(struct.iter_unpack(">HI", said))
        assert found[MAX_CONCURRENT_STREAMS] == MOST_STREAMS
        writer.close()


@pytest.mark.timeout(300)
async def test_many_calls_with_many_headers_take_no_more_memory_than_a_pod_has(
    tmp_path: Path,
) -> None:
    """Found: four connections with calls of 3,000 headers each took 1.3 GB in five seconds."""
    repository = tmp_path / "models"
    small_models.put(repository, "m", "1", small_models.affine())
    port = free_port()
    settings = {"model_repository": str(repository), "grpc_port": port}
    many = literal(b"a", b"b") * 3000

    async def flood() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        for stream in range(1, 2400, 2):
            writer.write(frame(HEADERS, 0, stream, CALL))
            writer.write(frame(CONTINUATION, END_HEADERS, stream, many))
            await writer.drain()
        writer.write(frame(PING, 0, 0, b"all read"))
        assert await read_until(reader, PING, flags=1) == b"all read"
        writer.close()

    async with running(tmp_path, "inference", "serve", **settings) as server:
        await asyncio.gather(*(flood() for _ in range(3)))
        assert peak(server.process.pid) < LIMIT, peak(server.process.pid) // MEBIBYTE
