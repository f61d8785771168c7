"""What goes wrong between the proxy and its neighbours, each with its answer and none a 500."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientError, ClientPayloadError, web

from proxy.http.resilience import Breaker
from tests.ports import free_port
from tests.proxy.conftest import Neighbour, Proxy, eventually, proxy_with
from tests.proxy.faults import toxic
from tests.waits import SECONDS

INFER = "/v2/models/digits/infer"
JSON = {"content-type": "application/json"}
ROWS = b'{"instances":[[' + b",".join([b"1"] * 64) + b"]]}"


def to(url: str, **more: Any) -> dict[str, Any]:
    return {"backends": {"digits": {"type": "http", "url": url} | more}, "retry_ratio": 0.0}


async def ask(proxy: Proxy, path: str = INFER, **headers: str) -> tuple[int, dict[str, Any], Any]:
    async with proxy.session.post(proxy.url + path, data=ROWS, headers=JSON | headers) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


@pytest.mark.parametrize("path", [INFER, "/v1/predict/digits"])
async def test_refused_is_503(path: str) -> None:
    async with proxy_with(**to(f"http://127.0.0.1:{free_port()}")) as proxy:
        status, document, headers = await ask(proxy, path)
    assert status == 503
    assert document["type"] == "urn:slipway:problem:upstream-unreachable"
    assert headers["Retry-After"]


@pytest.mark.parametrize("path", [INFER, "/v1/predict/digits"])
async def test_deaf_is_504_at_the_deadline_and_the_deadline_is_passed_on(
    model: Neighbour, path: str
) -> None:
    async with toxic(model.url) as between, proxy_with(**to(between.url)) as proxy:
        assert (await ask(proxy, path))[0] == 200
        passed = float(model.seen[-1].header("x-request-timeout") or "")
        assert 29 < passed < 30
        assert (await ask(proxy, path, **{"x-request-timeout": "2"}))[0] == 200
        assert float(model.seen[-1].header("x-request-timeout") or "") < 2
        between.cut()
        between.deaf = True
        status, document, _ = await ask(proxy, path, **{"x-request-timeout": "0.2"})
    assert status == 504
    assert document["type"] == "urn:slipway:problem:deadline-exceeded"


@pytest.mark.parametrize("how", ["cut_after", "reset_after"])
@pytest.mark.parametrize("at", [0, 10])
async def test_cut_in_the_head_is_502(model: Neighbour, how: str, at: int) -> None:
    async with toxic(model.url) as between, proxy_with(**to(between.url)) as proxy:
        setattr(between, how, at)
        status, document, _ = await ask(proxy)
    assert status == 502
    assert document["type"] == "urn:slipway:problem:upstream-broken"


async def test_cut_in_the_body_never_looks_whole(model: Neighbour) -> None:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 500_000)

    model.on(INFER, large)
    async with toxic(model.url) as between, proxy_with(**to(between.url)) as proxy:
        between.cut_after = 200_000
        async with proxy.session.post(proxy.url + INFER, data=b"{}") as answer:
            with pytest.raises(ClientPayloadError):
                await answer.read()
        status, document, _ = await ask(proxy, "/v1/predict/digits")
        assert (status, document["type"]) == (502, "urn:slipway:problem:upstream-broken")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"",
    ],
)
async def test_answers_that_are_no_http_are_502(said: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        server,
        proxy_with(**to(url)) as proxy,
        proxy.session.post(proxy.url + INFER, data=b"{}") as answer,
    ):
        # A head that is whole was already passed on: then the body must not look whole.
        if answer.status == 200:
            with pytest.raises(ClientPayloadError):
                await answer.read()
        else:
            assert answer.status == 502


async def test_interim_answers_are_not_the_answer() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, proxy_with(**to(url)) as proxy:
        assert (await ask(proxy))[:2] == (200, {})


async def test_an_answer_that_ends_with_the_connection_is_whole() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, proxy_with(**to(url)) as proxy:
        assert (await ask(proxy))[:2] == (200, {})


@asynccontextmanager
async def saying(said: bytes, *, close: bool = False) -> AsyncIterator[str]:
    """A server that answers every request with these bytes in one write; yields its URL."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(said)
                await writer.drain()
                if close:
                    break
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


SMALL: dict[str, tuple[bytes, int, bytes]] = {
    "chunked": (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, b"{}"),
    "chunked, empty": (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""),
    "to the close": (b"200 OK\r\nConnection: close\r\n\r\n{}", 200, b"{}"),
    "declared away": (
        b"200 OK\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\n{}",
        200,
        b"{}",
    ),
    "no content": (b"204 No Content\r\n\r\n", 204, b""),
    "not modified": (b"304 Not Modified\r\n\r\n", 304, b""),
    "HEAD": (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b""),
}


@pytest.mark.parametrize("case", SMALL)
async def test_a_small_answer_tells_its_end_however_the_backend_told_it(case: str) -> None:
    """Found: a whole chunked answer went out without any length; its caller waited for more."""
    said, status, body = SMALL[case]
    method = "HEAD" if case == "HEAD" else "POST"
    head = f"{method} /api/any/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
    close = case in ("to the close", "HEAD")
    async with (
        saying(b"HTTP/1.1 " + said, close=close) as url,
        proxy_with(upstreams={"any": {"url": url}}) as proxy,
    ):
        parts = urlsplit(proxy.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for _ in range(2):  # the caller's connection is good for another
            writer.write(head)
            async with asyncio.timeout(SECONDS):
                assert await answer_of(reader, method) == (status, body)
        writer.close()


async def answer_of(reader: asyncio.StreamReader, method: str) -> tuple[int, bytes]:
    """Status and body of one answer, read as RFC 9112 section 6.3 tells its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if method == "HEAD" or status in (204, 304):
        assert b"content-length" not in head
        return status, b""
    if b"transfer-encoding: chunked" in head:
        assert b"content-length" not in head
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return status, body
    lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    assert len(lengths) == 1, head
    return status, await reader.readexactly(int(lengths[0].split(b":")[1]))


async def test_a_kept_connection_that_was_closed_is_no_error(model: Neighbour) -> None:
    async with toxic(model.url) as between, proxy_with(**to(between.url)) as proxy:
        for _ in range(3):
            assert (await ask(proxy))[0] == 200
            between.cut()
        assert between.connections == 3


async def test_connections_are_reused(model: Neighbour) -> None:
    async with toxic(model.url) as between, proxy_with(**to(between.url)) as proxy:
        for _ in range(5):
            assert (await ask(proxy))[0] == 200
        assert between.connections == 1


async def test_past_its_concurrency_a_backend_is_429_at_once(model: Neighbour) -> None:
    release = asyncio.Event()
    first = model.handlers[INFER]

    async def wait(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await first(request)

    model.on(INFER, wait)
    async with proxy_with(**to(model.url, max_concurrency=2)) as proxy:
        asked = [asyncio.create_task(ask(proxy)) for _ in range(2)]

        async def full() -> bool:
            return await proxy.metric('slipway_proxy_backend_in_flight{backend="digits"}') == 2

        await eventually(full)
        status, document, headers = await ask(proxy)
        assert (status, document["type"]) == (429, "urn:slipway:problem:backend-busy")
        assert headers["Retry-After"] == "1"
        release.set()
        assert [answer[0] for answer in await asyncio.gather(*asked)] == [200, 200]


async def test_the_breaker_opens_answers_at_once_and_closes_again(
    model: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its minute is over when the test says so."""
    allows, passed = Breaker.allows, [0.0]
    monkeypatch.setattr(Breaker, "allows", lambda self, now: allows(self, now + passed[0]))
    first = model.handlers[INFER]

    async def fail(_: web.Request) -> web.Response:
        return web.json_response({"error": "no"}, status=500)

    model.on(INFER, fail)
    quick = {"breaker_failures": 3, "breaker_open_seconds": 60}
    async with proxy_with(**to(model.url, **quick)) as proxy:
        assert [(await ask(proxy))[0] for _ in range(3)] == [500, 500, 500]
        asked = len(model.seen)
        status, document, headers = await ask(proxy)
        assert (status, document["type"]) == (503, "urn:slipway:problem:circuit-open")
        assert headers["Retry-After"]
        assert len(model.seen) == asked, "an open breaker asks nobody"
        line = f'slipway_proxy_breaker_state{{address="{model.url}",backend="digits"}}'
        assert await proxy.metric(line) == 2
        model.on(INFER, first)
        passed[0] = 61.0
        assert (await ask(proxy))[0] == 200
        assert await proxy.metric(line) == 0


@pytest.mark.parametrize("path", [INFER, "/v1/predict/digits"])
@pytest.mark.parametrize("cut", [False, True], ids=["stalls", "cuts"])
async def test_a_backend_that_ends_in_its_body_counts_as_failing(
    model: Neighbour, path: str, cut: bool
) -> None:
    """Found: its head counted as a success, and the breaker never opened."""
    hold = asyncio.Event()

    async def begin(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-length": "100"})
        await answer.prepare(request)
        await answer.write(b"{")
        if cut:
            assert request.transport is not None
            request.transport.abort()
        else:
            await hold.wait()
        return answer

    model.on(INFER, begin)
    few = {"breaker_failures": 3, "breaker_open_seconds": 60, "timeout_seconds": 0.2}
    async with proxy_with(**to(model.url, **few)) as proxy:
        line = f'slipway_proxy_breaker_state{{address="{model.url}",backend="digits"}}'
        for _ in range(3):
            assert await proxy.metric(line) == 0
            with contextlib.suppress(ClientError):  # half an answer, as it must look like
                await ask(proxy, path)
        assert await proxy.metric(line) == 2
        hold.set()


async def test_a_caller_in_a_hurry_does_not_close_a_backend_to_the_others(
    model: Neighbour,
) -> None:
    """Found: twenty requests with X-Request-Timeout: 1ms opened the breaker for everybody."""
    first = model.handlers[INFER]
    late = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await late.wait()
        return await first(request)

    async def too_late(_: web.Request) -> web.Response:
        return web.json_response({"error": "its deadline has passed"}, status=504)

    quick = {"breaker_failures": 3, "timeout_seconds": 0.3, "max_concurrency": 10}
    async with proxy_with(**to(model.url, **quick)) as proxy:
        for handler, timeout in ((hang, "1ms"), (hang, "100ms"), (too_late, "100ms")):
            model.on(INFER, handler)
            for _ in range(4):
                status, document, _ = await ask(proxy, **{"x-request-timeout": timeout})
                assert status == 504, document
        model.on(INFER, first)
        assert (await ask(proxy))[0] == 200
        model.on(INFER, hang)
        assert [(await ask(proxy))[0] for _ in range(4)] == [504, 504, 504, 503], "its own fault"
    late.set()


async def test_a_retry_is_made_once_and_within_the_budget(model: Neighbour) -> None:
    first = model.handlers[INFER]
    calls: list[int] = []

    async def flaky(request: web.Request) -> web.StreamResponse:
        calls.append(1)
        if len(calls) % 2:
            return web.Response(status=503)
        return await first(request)

    model.on(INFER, flaky)
    given = to(model.url, breaker_failures=1000) | {"retry_ratio": 0.5}
    async with proxy_with(**given) as proxy:
        assert (await ask(proxy))[0] == 200
        assert len(calls) == 2

        async def always(_: web.Request) -> web.Response:
            calls.append(1)
            return web.Response(status=503)

        model.on(INFER, always)
        calls.clear()
        for _ in range(40):
            async with proxy.session.post(proxy.url + INFER, data=b"{}") as answer:
                assert answer.status == 503
        assert 40 < len(calls) <= 62, "a failing backend gets half as much more, not twice"


async def test_a_post_to_an_upstream_is_never_repeated(upstream: Neighbour) -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=503)

    upstream.on("*", fail)
    given = {"upstreams": {"orders": {"url": upstream.url}}, "retry_ratio": 1.0}
    async with proxy_with(**given) as proxy:
        async with proxy.session.post(f"{proxy.url}/api/orders/1", data=b"x") as answer:
            assert answer.status == 503
        assert len(upstream.seen) == 1
        async with proxy.session.get(f"{proxy.url}/api/orders/1") as answer:
            assert answer.status == 503
        assert len(upstream.seen) == 3


async def test_targets_share_by_weight_and_stand_in_for_each_other(model: Neighbour) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    targets = [{"url": model.url, "weight": 1}, {"url": dead, "weight": 1}]
    given = {
        "backends": {
            "digits": {"type": "http", "targets": targets, "breaker_failures": 2,
                       "breaker_open_seconds": 60}
        },
        "retry_ratio": 1.0,
    }  # fmt: skip
    async with proxy_with(**given) as proxy:
        assert {(await ask(proxy))[0] for _ in range(30)} == {200}
        assert (
            await proxy.metric(f'slipway_proxy_breaker_state{{address="{dead}",backend="digits"}}')
            == 2
        )


async def test_slow_between_proxy_and_model_is_only_slow(model: Neighbour) -> None:
    async with toxic(model.url) as between, proxy_with(**to(between.url)) as proxy:
        between.latency = 0.05
        answers = await asyncio.gather(*(ask(proxy) for _ in range(5)))
    assert {answer[0] for answer in answers} == {200}


async def test_redis_cut_reset_or_deaf_in_the_middle(model: Neighbour, redis_url: str) -> None:
    async with toxic(redis_url.replace("redis://", "http://")) as between:
        given = to(model.url, cache={"ttl_seconds": 60}) | {
            "redis_url": between.url.replace("http://", "redis://"),
            "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
            "rate_limit": {"requests": 1000, "window_seconds": 60},
            "cache_memory_bytes": 0,
        }
        async with proxy_with(**given) as proxy:
            assert (await ask(proxy, "/v1/predict/digits"))[0] == 200
            between.reset_after = 0
            between.cut()
            assert (await ask(proxy, "/v1/predict/digits"))[0] == 200
            between.reset_after = None
            between.deaf = True
            assert (await ask(proxy, "/v1/predict/digits"))[0] == 200
            status, document, _ = await ask(proxy, "/v1/jobs/digits", **{"x-request-timeout": "1"})
            assert (status, document["type"]) == (503, "urn:slipway:problem:jobs-unavailable")
