"""Backends and a cache that give what no careful server would: never a 500, never their words."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import Mock

import pytest
import redis.asyncio as redis
from aiohttp import web

from kit.lifecycle.health import Health
from proxy.app import create_app
from proxy.gateway import asgi
from proxy.gateway.api import models
from proxy.settings import ProxySettings
from tests.proxy.conftest import METADATA, Neighbour, listening, proxy_with
from tests.proxy.faults import speak

INFER = b'{"inputs":[]}'


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that answers every request but those for metadata with these very bytes."""
    metadata = json.dumps(METADATA).encode()
    described = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(metadata), metadata)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(described if head.startswith(b"GET /v2/models/digits HTTP") else answer)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await listener.wait_closed()


async def ask(url: str, path: str, headers: str = "", body: bytes = INFER) -> tuple[int, bytes]:
    sent = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    answer = await speak(url, sent.encode() + body)
    return int(answer[9:12]), answer


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
BAD = {
    "status 99": b"HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "status 1000": b"HTTP/1.1 1000 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "headers without end": OK + b"X: y\r\n" * 200_000 + b"\r\n{}",
    "one endless header": OK + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n{}",
    "compressed for its way": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    "compressed until its end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "compressed, in two lines": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "trailers without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    b"X: " + b"y" * 1_000_000,
}


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/api/up/x", "/v2/models/kept/infer"])
@pytest.mark.parametrize("case", BAD)
async def test_an_answer_that_is_none_is_502(case: str, path: str) -> None:
    """Found: the statuses 99, 600 and 999 were answered with 500."""
    async with (
        answering(BAD[case]) as url,
        proxy_with(
            backends={
                "digits": {"type": "http", "url": url},
                "kept": {"type": "http", "url": url, "model": "digits", "cache": {}},
            },
            upstreams={"up": {"url": url}},
        ) as proxy,
    ):
        status, answer = await ask(proxy.url, path)
        if case.startswith("trailers") and status == 200:
            assert not answer.endswith(b"\r\n0\r\n\r\n"), "cut off rather than whole"
        else:
            assert (status, b"upstream-broken" in answer) == (502, True), answer[:200]


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/api/up/x"])
async def test_trailers_of_an_answer_never_become_headers(path: str) -> None:
    """Found: a backend's trailer became a header of the answer, X-Request-Id among them."""
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        b"X-Trailed: yes\r\nSet-Cookie: a=b\r\n\r\n"
    )
    async with (
        answering(chunked) as url,
        proxy_with(
            backends={"digits": {"type": "http", "url": url}}, upstreams={"up": {"url": url}}
        ) as proxy,
    ):
        status, answer = await ask(proxy.url, path)
    assert status == 200
    assert b"x-trailed" not in answer.lower() and b"set-cookie" not in answer.lower()
    assert answer.endswith((b"\r\n\r\n{}", b"2\r\n{}\r\n0\r\n\r\n"))


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/api/up/x"])
async def test_an_answer_without_a_body_has_no_length(path: str) -> None:
    """Found: 204 with Content-Length: 5 went on so, and a caller waits for what never comes."""
    async with (
        answering(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX-A: b\r\n\r\n") as url,
        proxy_with(
            backends={"digits": {"type": "http", "url": url}}, upstreams={"up": {"url": url}}
        ) as proxy,
    ):
        status, answer = await ask(proxy.url, path)
    assert (status, b"\r\nx-a: b\r\n" in answer) == (204, True)
    assert b"content-length" not in answer and b"transfer-encoding" not in answer


async def test_trailers_of_a_request_never_become_headers(upstream: Neighbour) -> None:
    """Found: a trailer was believed as X-Forwarded-For, Host, X-Request-Id, Content-Encoding."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    upstream.on("*", echo)
    async with proxy_with(upstreams={"up": {"url": upstream.url}}) as proxy:
        answer = await speak(
            proxy.url,
            b"POST /api/up/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-Id: fromtrailer\r\n"
            b"Content-Encoding: gzip\r\n\r\n",
        )
    assert answer.endswith(b"hello")
    assert b"fromtrailer" not in answer
    (seen,) = upstream.seen
    assert seen.header("x-forwarded-for") == "127.0.0.1"
    assert seen.header("content-encoding") is None
    assert seen.header("x-request-id") != "fromtrailer"


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "+2", "1_0", "²", "", "14"])
async def test_a_split_that_is_none_is_400(model: Neighbour, length: str) -> None:
    """Found: a length of 5,000 digits was a 500; Python reads no more than 4,300."""
    backend = {"type": "http", "url": model.url, "cache": {"ttl_seconds": 60}}
    async with proxy_with(backends={"digits": backend}) as proxy:
        header = f"Inference-Header-Content-Length: {length}\r\n"
        status, answer = await ask(proxy.url, "/v2/models/digits/infer", header)
    assert status == 400, answer[:200]


@pytest.mark.parametrize("length", ["9" * 5000, "1", "17", "x", ""])
@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/predict/digits"])
async def test_an_answer_with_a_wrong_split_is_502(
    model: Neighbour, length: str, path: str
) -> None:
    """Found: an answer kept with a wrong split was a 500."""

    async def split(_: web.Request) -> web.Response:
        return web.Response(body=b'{"id":"a"}', headers={"Inference-Header-Content-Length": length})

    model.on("/v2/models/digits/infer", split)
    backend = {"type": "http", "url": model.url, "cache": {"ttl_seconds": 60}}
    async with proxy_with(backends={"digits": backend}) as proxy:
        body = b'{"id":"b","instances":[[' + b",".join([b"1"] * 64) + b"]]}"
        status, answer = await ask(proxy.url, path, body=body)
    assert (status, b"bad-answer" in answer) == (502, True), answer[:300]


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\xff\n{}",
        b"[]\n{}",
        b'{"status":200}\n{}',
        b'{"status":200,"headers":{"inference-header-content-length":"999"}}\n{}',
        b'{"status":200,"headers":{}}\nnot JSON',
    ],
)
async def test_a_cache_entry_that_cannot_be_read_is_asked_for_again(
    model: Neighbour, redis_url: str, entry: bytes
) -> None:
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    backend = {"type": "http", "url": model.url, "cache": {"ttl_seconds": 60}}
    given = {"backends": {"digits": backend}, "redis_url": redis_url, "redis_prefix": prefix}
    async with proxy_with(**given, cache_memory_bytes=0) as proxy:
        path, body = "/v2/models/digits/infer", b'{"id":"mine","inputs":[]}'
        assert (await ask(proxy.url, path, body=body))[0] == 200
        client = redis.Redis.from_url(redis_url)
        (key,) = [key async for key in client.scan_iter(f"{prefix}:cache:*")]
        await client.set(key, entry)
        status, answer = await ask(proxy.url, path, body=body)
        assert (status, b'"mine"' in answer) == (200, True), answer[:300]
        await client.aclose()


async def test_a_defect_of_ours_is_a_problem_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found: an unexpected error was answered in text/plain."""

    def defect(*_: object) -> None:
        raise LookupError("something nobody thought of")

    monkeypatch.setattr(models, "json_answer", defect)
    monkeypatch.setattr(asgi, "log", Mock())  # a traceback with all its locals takes seconds
    settings = ProxySettings(access_log="off")
    async with listening(create_app(settings, Health())) as url:
        answer = await speak(
            url, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"application/problem+json" in answer
    assert b"nobody thought of" not in answer
