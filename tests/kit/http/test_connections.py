"""What one connection may take: time for each part of a request, bytes, and one of a number."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import pytest
import uvicorn

from kit.http.connections import (
    MOST_FIELDS,
    SMALL_HEAD_BYTES,
    BoundedProtocol,
    ConnectionLimits,
    ConnectionWatch,
    Phase,
)
from kit.http.protocol import MOST_PIPELINED
from kit.http.server import limits_of
from kit.settings import ServiceSettings

FAR = 1e6  # seconds: later than any limit


@dataclass
class Server:
    """A server on a real socket; ``sweep`` is what its clock would do later."""

    port: int
    server: uvicorn.Server
    seen: list[Any]
    gate: asyncio.Event
    opened: list[asyncio.StreamWriter]

    @property
    def watch(self) -> ConnectionWatch:
        found: ConnectionWatch = vars(self.server.server_state)["connection_watch"]
        return found

    @property
    def connections(self) -> list[BoundedProtocol]:
        return [
            each
            for each in self.server.server_state.connections
            if isinstance(each, BoundedProtocol)
        ]

    async def open(self, sent: bytes = b"", *, limit: int = 65536) -> Client:
        before = len(self.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        self.opened.append(writer)
        writer.write(sent)
        if not sent:
            await until(lambda: len(self.connections) > before)
        return Client(reader, writer)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(90):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""

    async def answer(self) -> bytes:
        """One answer with a Content-Length."""
        async with asyncio.timeout(90):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return head + await self.reader.readexactly(size)


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(90):
        while not check():  # noqa: ASYNC110 - what is looked at sets no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[Server]:
    """A server that echoes bodies; ``/hold`` waits for the gate, ``/large`` is 40 MB."""
    seen: list[Any] = []
    gate = asyncio.Event()
    opened: list[asyncio.StreamWriter] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hold":
            await gate.wait()
        body = b""
        if scope["path"] != "/unread":
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
        seen.append((scope["path"], scope["headers"], body))
        answer = b"x" * 40_000_000 if scope["path"] == "/large" else body
        length = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": answer})

    protocol = type("Tested", (BoundedProtocol,), {"limits": ConnectionLimits(**limits)})
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=protocol,
        loop="none",
        lifespan="off",
        log_config=None,
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Server(port, server, seen, gate, opened)
    finally:
        gate.set()
        for writer in opened:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        for each in list(server.server_state.connections):
            each.transport.abort()  # type: ignore[union-attr]
        await server.shutdown()


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


async def test_a_connection_that_says_nothing_is_closed() -> None:
    """Found: silent connections lived longer than 330 s, and for ever."""
    async with serving() as server:
        client = await server.open()
        server.watch.sweep(monotonic() + 19)
        assert server.connections[0].transport.is_closing() is False
        server.watch.sweep(monotonic() + 21)
        assert await client.rest() == b""


async def test_a_head_that_does_not_end_is_408() -> None:
    """Found: 500 half-sent heads lived for ever."""
    async with serving() as server:
        client = await server.open(b"GET / HTTP/1.1\r\nHost: a\r\nX-")
        await until(lambda: server.connections and server.connections[0].heard)
        server.watch.sweep(monotonic() + 19)
        client.writer.write(b"A: b\r\nX-")  # a byte now and then is no way around it
        await until(lambda: server.connections[0]._head_bytes > 5)
        server.watch.sweep(monotonic() + 21)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["type"].endswith(":head-too-slow")


async def test_the_second_head_on_a_connection_has_its_time_too() -> None:
    async with serving() as server:
        client = await server.open(GET)
        await client.answer()
        client.writer.write(b"GET / HT")
        await until(lambda: server.connections[0].phase is Phase.HEAD)
        server.watch.sweep(monotonic() + 21)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_does_not_end_is_given_up() -> None:
    async with serving() as server:
        client = await server.open(POST + b"Content-Length: 9\r\n\r\nabc")
        await until(lambda: server.connections and server.connections[0].phase is Phase.BODY)
        server.watch.sweep(monotonic() + 299)
        assert not server.connections[0].transport.is_closing()
        server.watch.sweep(monotonic() + 301)
        assert await client.rest() == b""


async def test_the_rest_of_a_body_that_was_answered_early_has_a_heads_time() -> None:
    """Else bytes that nobody reads keep a connection that has its answer."""
    async with serving() as server:
        client = await server.open(
            b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"
        )
        await client.answer()
        server.watch.sweep(monotonic() + 21)
        assert await client.rest() == b""


async def test_an_answer_on_its_way_has_no_limit_here() -> None:
    async with serving() as server:
        client = await server.open(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: server.connections and server.connections[0].phase is Phase.NOTHING)
        server.watch.sweep(monotonic() + FAR)
        server.gate.set()
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


async def test_line_ends_between_requests_do_not_keep_a_connection() -> None:
    """uvicorn's keep-alive timer ends at any byte, and a line end begins no request."""
    async with serving() as server:
        client = await server.open(GET)
        await client.answer()
        client.writer.write(b"\r\n")
        await until(lambda: server.connections[0]._received == 2)
        server.watch.sweep(monotonic() + FAR)
        await client.rest()
        await until(lambda: not server.connections)


async def test_a_caller_that_does_not_take_its_answer_is_given_up() -> None:
    async with serving() as server:
        await server.open(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", limit=1024)
        await until(lambda: server.connections and server.connections[0].flow.write_paused)
        now = monotonic()
        server.watch.sweep(now)
        server.watch.sweep(now + 59)
        assert len(server.connections) == 1
        server.watch.sweep(now + 61)
        await until(lambda: not server.connections)


async def test_a_caller_that_takes_its_answer_slowly_is_served() -> None:
    async with serving() as server:
        client = await server.open(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: server.connections and server.connections[0].flow.write_paused)
        now, taken = monotonic(), 0
        size = server.connections[0].transport.get_write_buffer_size
        while taken < 40_000_000:
            before = size()
            while size() > max(0, before - 65536) and taken < 40_000_000:
                taken += len(await client.reader.read(65536))
                await asyncio.sleep(0)
            now += 59
            server.watch.sweep(now)
            if not server.connections[0].flow.write_paused:
                break
        assert not server.connections[0].transport.is_closing()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2_000_000,
        b"GET /" + b"x" * 2_000_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300_000,
    ],
    ids=["one header", "the target", "many headers"],
)
async def test_a_head_that_grows_without_end_is_431(sent: bytes) -> None:
    """Found: the parser keeps a header that never ends in memory, whatever its size."""
    async with serving() as server:
        client = await server.open(sent)
        answer = await client.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        assert server.seen == []


async def test_a_head_of_very_many_fields_is_431() -> None:
    """Found: 500 heads of 12,000 fields each took 460 MiB, for 30 MB sent."""
    async with serving() as server:
        fields = b"a:b\r\n" * (MOST_FIELDS - 1)
        client = await server.open(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"a:b\r\n\r\n")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"256 fields" in answer


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("line", [b"X: " + b"x" * SMALL_HEAD_BYTES + b"\r\n", b"a:b\r\n" * 65])
async def test_large_heads_are_bounded_together(line: bytes, whole: bool) -> None:
    """Small ones are served meanwhile, and a large one again once another has its answer."""
    async with serving(large_heads=2) as server:
        large = b"GET /hold HTTP/1.1\r\nHost: a\r\n" + line + (b"\r\n" if whole else b"")
        holding = [await server.open(large) for _ in range(2)]
        await until(lambda: len(server.connections) == 2 and server.watch.large_heads == 2)
        refused = await (await server.open(large)).rest()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"large heads" in refused
        assert (await (await server.open(GET)).answer()).startswith(b"HTTP/1.1 200 ")
        server.gate.set()
        for each in holding:
            each.writer.write(b"" if whole else b"\r\n")
            assert (await each.answer()).startswith(b"HTTP/1.1 200 ")
        assert server.watch.large_heads == 0
        again = await server.open(large + (b"" if whole else b"\r\n"))
        assert (await again.answer()).startswith(b"HTTP/1.1 200 ")
        again.writer.write(large)
        await until(lambda: server.watch.large_heads == int(not whole))
        again.writer.transport.abort()
        await until(lambda: server.watch.large_heads == 0)


async def test_requests_sent_ahead_of_their_answers_are_bounded() -> None:
    """Found: one read of 256 kB made 10,000 requests, of 4 KiB each, wait on a connection."""
    async with serving() as server:
        held = b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"
        client = await server.open(held + GET * (MOST_PIPELINED + 5))
        await until(lambda: server.connections and len(server.connections[0].pipeline))
        assert len(server.connections[0].pipeline) == MOST_PIPELINED
        server.gate.set()
        answers = await client.rest()
        assert answers.count(b"HTTP/1.1 200 ") == MOST_PIPELINED + 1
        assert answers.rindex(b"HTTP/1.1 429 ") > answers.rindex(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"5\r\nhello\r\n0\r\nX: " + b"x" * 2_000_000,
        b"5;x=" + b"x" * 2_000_000,
        b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n" * 30_000,
    ],
    ids=["a trailer", "an extension", "many extensions"],
)
async def test_a_body_that_is_nearly_all_framing_is_refused(sent: bytes) -> None:
    async with serving() as server:
        client = await server.open(POST + b"Transfer-Encoding: chunked\r\n\r\n" + sent)
        await client.rest()
        assert server.seen == [] or server.seen[0][2] != b"hello"


async def test_a_body_of_single_bytes_is_taken() -> None:
    async with serving() as server:
        client = await server.open(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(60):
            client.writer.write(b"1\r\na\r\n" * 1000)
            await client.writer.drain()
        client.writer.write(b"0\r\n\r\n")
        assert (await client.answer()).endswith(b"a" * 60_000)


TRAILERS = b"X-Forwarded-For: 6.6.6.6\r\nHost: b\r\nX-Request-Id: t\r\nContent-Encoding: gzip\r\n"


@pytest.mark.parametrize("apart", [False, True])
async def test_trailers_never_become_headers(apart: bool) -> None:
    """Found: a trailer set X-Forwarded-For, Host, X-Request-Id and Content-Encoding."""
    async with serving() as server:
        client = await server.open(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        if apart:
            await until(lambda: server.connections and server.connections[0].cycle is not None)
        client.writer.write(b"0\r\n" + TRAILERS + b"\r\n" + GET)
        assert (await client.answer()).endswith(b"hello")
        await client.answer()
        for _, headers, _ in server.seen:
            assert {name for name, _ in headers} <= {b"host", b"transfer-encoding"}
            assert dict(headers)[b"host"] == b"a"


async def test_past_the_bound_who_waits_longest_makes_room() -> None:
    """Half-sent heads cannot keep callers out: the oldest of them go."""
    async with serving(connections=8) as server:
        served = await server.open(GET)
        await served.answer()
        halves = [await server.open() for _ in range(7)]
        for _ in range(3):
            client = await server.open(GET)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        for half in halves[:3]:
            assert await half.rest() == b""
        served.writer.write(GET)
        assert (await served.answer()).startswith(b"HTTP/1.1 200 "), "the silent went first"


async def test_past_the_bound_a_new_connection_is_refused_where_all_are_busy() -> None:
    async with serving(connections=2) as server:
        busy = [await server.open(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(2)]
        await until(
            lambda: [each.phase for each in server.connections] == [Phase.NOTHING, Phase.NOTHING]
        )
        refused = await server.open(GET)
        answer = await refused.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
        server.gate.set()
        for each in busy:
            assert (await each.answer()).startswith(b"HTTP/1.1 200 ")


async def test_what_is_no_http_is_a_problem_document() -> None:
    async with serving() as server:
        client = await server.open(b"NONSENSE\r\n\r\n")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in answer


def test_the_settings_become_the_limits() -> None:
    settings = ServiceSettings(head_seconds=1, body_seconds=2, answer_seconds=3, max_connections=4)
    assert limits_of(settings) == ConnectionLimits(4, 1, 2, 3)
