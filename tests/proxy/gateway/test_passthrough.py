"""Passing through, on real sockets: what arrives, what does not, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.proxy.conftest import Neighbour, Proxy, eventually, proxy_with
from tests.proxy.faults import speak
from tests.waits import SECONDS


@pytest.fixture
async def proxy(model: Neighbour, upstream: Neighbour) -> AsyncIterator[Proxy]:
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url}},
        upstreams={
            "users": {"url": f"{upstream.url}/base", "methods": ["GET", "POST", "PUT", "DELETE"]},
            "whole": {"url": upstream.url, "strip_prefix": False, "forward_authorization": True},
            "narrow": {"url": upstream.url, "paths": ["/open"]},
            "idle": {"url": upstream.url, "idle_seconds": 0.2},
        },
        stage_prefixes=["/dev"],
        max_body_bytes=4 * 1024 * 1024,
    ) as found:
        yield found


async def _echo(request: web.Request) -> web.Response:
    return web.Response(
        body=await request.read(),
        status=207,
        headers=[("X-Two", "1"), ("X-Two", "2"), ("Keep-Alive", "x"), ("Set-Cookie", "a=b")],  # type: ignore[arg-type]
    )


async def test_api_keeps_method_query_headers_body_and_status(
    proxy: Proxy, upstream: Neighbour
) -> None:
    upstream.on("*", _echo)
    url = URL(f"{proxy.url}/api/users/a%20b/%ED%95%9C?q=%2F&q=2&empty=", encoded=True)
    async with proxy.session.put(
        url, data=b"\x00\xffbody", headers={"X-Own": "yes", "Authorization": "Bearer x"}
    ) as answer:
        assert answer.status == 207
        assert await answer.read() == b"\x00\xffbody"
        assert answer.headers.getall("X-Two") == ["1", "2"]
        assert "Keep-Alive" not in answer.headers
    (seen,) = upstream.seen
    assert seen.method == "PUT"
    assert seen.path == "/base/a%20b/%ED%95%9C?q=%2F&q=2&empty="
    assert seen.header("x-own") == "yes"
    assert seen.header("authorization") is None
    assert seen.header("x-forwarded-for") == "127.0.0.1"
    assert seen.header("x-forwarded-host") == proxy.url.removeprefix("http://")
    assert seen.header("traceparent")
    assert seen.header("host") == upstream.url.removeprefix("http://")


async def test_prefix_and_credentials_stay_where_the_settings_say_so(
    proxy: Proxy, upstream: Neighbour
) -> None:
    upstream.on("*", _echo)
    async with proxy.session.get(
        f"{proxy.url}/api/whole/x", headers={"Authorization": "Bearer x"}
    ) as answer:
        assert answer.status == 207
    assert upstream.seen[0].path == "/api/whole/x"
    assert upstream.seen[0].header("authorization") == "Bearer x"


async def test_stage_prefixes_are_taken_off(proxy: Proxy, upstream: Neighbour) -> None:
    upstream.on("*", _echo)
    async with proxy.session.get(f"{proxy.url}/dev/api/users/1") as answer:
        assert answer.status == 207
    assert upstream.seen[0].path == "/base/1"
    async with proxy.session.get(f"{proxy.url}/dev/v1/about") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("PATCH", "/api/users/1", 405, "method-not-allowed"),
        ("GET", "/api/nobody/1", 404, "unknown-upstream"),
        ("GET", "/api/narrow/closed", 404, "unknown-upstream"),
        ("GET", "/api/narrow/opener", 404, "unknown-upstream"),
        ("GET", "/api/users/../narrow/open", 400, "bad-path"),
        ("GET", "/api/users/%2e%2e/x", 400, "bad-path"),
        ("GET", "/api/users/a%2fb", 400, "bad-path"),
        ("GET", "/api/users/%252e%252e/x", 400, "bad-path"),
        ("GET", "/v1/%2e%2e/x", 400, "bad-path"),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("PUT", "/v1/about", 405, "method-not-allowed"),
        ("GET", "/v2/models/digits/infer", 405, "method-not-allowed"),
        ("POST", "/v2/models/digits/load", 404, "not-found"),
        ("POST", "/v2/repository/models/digits/unload", 404, "not-found"),
        ("GET", "/v2x", 404, "not-found"),
    ],
)
async def test_refusals(
    proxy: Proxy,
    model: Neighbour,
    upstream: Neighbour,
    *,
    method: str,
    path: str,
    status: int,
    kind: str,
) -> None:
    async with proxy.session.request(method, URL(proxy.url + path, encoded=True)) as answer:
        document = await answer.json()
        assert (answer.status, document["type"]) == (status, f"urn:slipway:problem:{kind}")
        assert answer.content_type == "application/problem+json"
    assert upstream.seen == model.seen == []


SMUGGLING = {
    "both lengths": b"POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Content-Length: 5\r\n\r\nabcde",
    "the same length twice": b"POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Content-Length: 4\r\n\r\nabcd",
    "a list of lengths": b"POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\nabcd",
    "a signed length": b"POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
    "a hexadecimal length": b"POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd",
    "two hosts": b"GET {} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET {} HTTP/1.1\r\n\r\n",
    "a host with a path": b"GET {} HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "unknown coding": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"
    b"0\r\n\r\n",
    "chunked not last": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"
    b"0\r\n\r\n",
    "two codings": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    b"0\r\n\r\n",
    "tab before chunked": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"
    b"0\r\n\r\n",
    "blank before the colon": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n"
    b"0\r\n\r\n",
    "folded header": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n"
    b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"POST {} HTTP/1.1\nHost: a\nContent-Length: 4\n"
    b"Transfer-Encoding: chunked\n\n0\n\n",
    "NUL in a header": b"GET {} HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "carriage return in a header": b"GET {} HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 5\r\n\r\n",
    "chunk size with a sign": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"-1\r\nx\r\n0\r\n\r\n",
    "huge chunk size": b"POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"fffffffffffffffff\r\nx\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST {} HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
}


@pytest.mark.parametrize("path", [b"/v2/models/digits/infer", b"/api/users/x"])
@pytest.mark.parametrize("case", SMUGGLING)
async def test_smuggling_is_refused_and_the_connection_closed(
    proxy: Proxy, model: Neighbour, upstream: Neighbour, case: str, path: bytes
) -> None:
    upstream.on("*", _echo)
    sent = SMUGGLING[case].replace(b"{}", path)
    hidden = b"GET /api/users/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = await speak(proxy.url, sent + hidden)
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:300]
    assert b"connection: close" in answer.lower()
    assert not [seen for seen in upstream.seen if "smuggled" in seen.path]
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_names_with_underscores_do_not_pass_for_ours(
    proxy: Proxy, upstream: Neighbour
) -> None:
    upstream.on("*", _echo)
    await speak(
        proxy.url,
        b"GET /api/users/x HTTP/1.1\r\nHost: a\r\nX_Slipway_Shadow: true\r\n"
        b"X-Slipway-Caller: root\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n",
    )
    (seen,) = upstream.seen
    assert seen.header("x-slipway-caller") is None
    assert seen.header("x_slipway_shadow") is None
    assert seen.header("x-slipway-shadow") is None


async def test_an_absolute_target_does_not_choose_where_it_goes(
    proxy: Proxy, upstream: Neighbour
) -> None:
    upstream.on("*", _echo)
    await speak(
        proxy.url,
        b"GET http://evil.test/api/users/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    assert [seen.path for seen in upstream.seen] == ["/base/x"]


async def test_bodies_over_the_limit_are_413_declared_or_not(
    proxy: Proxy, upstream: Neighbour
) -> None:
    upstream.on("*", _echo)
    size = proxy.settings.max_body_bytes + 1

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(size // 65536 + 1):
            yield b"x" * 65536

    for path in ("/api/users/x", "/v2/models/digits/infer", "/v1/predict/digits"):
        for body in (io.BytesIO(b"x" * size), chunks()):
            headers = {"content-type": "application/json"}
            try:
                async with proxy.session.post(
                    proxy.url + path, data=body, headers=headers
                ) as answer:
                    assert answer.status == 413, path
            except aiohttp.ClientConnectionError:
                pass  # closed while we were still sending, which is allowed
    async with proxy.session.get(f"{proxy.url}/v1/about") as answer:
        assert answer.status == 200


SLOW = {
    "small": b"Content-Length: 10\r\n\r\nabc",
    "large": b"Content-Length: 3000000\r\n\r\nabc",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
}


@pytest.mark.parametrize("path", ["/api/users/x", "/v2/models/digits/infer", "/v1/predict/digits"])
@pytest.mark.parametrize("case", SLOW)
async def test_a_body_that_does_not_arrive_is_408_and_gives_its_place_back(
    proxy: Proxy, upstream: Neighbour, path: str, case: str
) -> None:
    """Found: a caller that stopped sending kept a backend's place for as long as it liked."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 0.1\r\n".encode()
    head += b"Content-Type: application/json\r\n"
    answer = await speak(proxy.url, head + SLOW[case])
    assert answer.startswith(b"HTTP/1.1 408 "), answer[:300]
    assert b"urn:slipway:problem:body-too-slow" in answer
    assert b"connection: close" in answer.lower()
    for backend in ("digits", "api/users"):
        line = f'slipway_proxy_backend_in_flight{{backend="{backend}"}}'
        assert await proxy.metric(line) == 0


async def test_an_answer_that_is_not_taken_gives_its_place_back(
    proxy: Proxy, upstream: Neighbour
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b"x" * 65536)
        return answer

    upstream.on("*", endless)
    parts = URL(proxy.url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port, limit=1024)
    writer.write(b"GET /api/idle/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")  # and then reads no more

    async def given_back() -> bool:
        labels = 'http_route="/api/idle/{path}",type="answer-not-taken"'
        return await proxy.metric(f"slipway_proxy_failures_total{{{labels}}}") == 1

    await eventually(given_back)
    assert await proxy.metric('slipway_proxy_backend_in_flight{backend="api/idle"}') == 0
    writer.close()


async def test_large_bodies_stream_both_ways(proxy: Proxy, upstream: Neighbour) -> None:
    size = 3 * 1024 * 1024

    async def digest(request: web.Request) -> web.StreamResponse:
        found = hashlib.sha256()
        async for data in request.content.iter_any():
            found.update(data)
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(found.hexdigest().encode())
        for _ in range(64):
            await answer.write(b"y" * 65536)
        return answer

    digest.streaming = True  # type: ignore[attr-defined]
    upstream.on("*", digest)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(size // 32768):
            yield b"x" * 32768

    for data in (io.BytesIO(b"x" * size), body()):
        async with proxy.session.post(f"{proxy.url}/api/users/big", data=data) as answer:
            got = await answer.read()
        assert got[:64].decode() == hashlib.sha256(b"x" * size).hexdigest()
        assert len(got) == 64 + 64 * 65536


async def test_head_and_empty_answers(proxy: Proxy, upstream: Neighbour) -> None:
    async def answer_head(_: web.Request) -> web.Response:
        return web.Response(headers={"Content-Length": "123", "ETag": '"x"'})

    async def answer_empty(_: web.Request) -> web.Response:
        return web.Response(status=204)

    upstream.on("/base/empty", answer_empty)
    upstream.on("/api/whole/head", answer_head)
    async with proxy.session.head(f"{proxy.url}/api/whole/head") as answer:
        assert (answer.status, answer.headers["ETag"]) == (200, '"x"')
    async with proxy.session.get(f"{proxy.url}/api/users/empty") as answer:
        assert (answer.status, await answer.read()) == (204, b"")


async def test_server_sent_events_pass_one_by_one(proxy: Proxy, upstream: Neighbour) -> None:
    read = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: 1\n\n")
        await read.wait()  # the second only once the first has arrived
        await answer.write(b"data: 2\n\n")
        return answer

    upstream.on("*", stream)
    async with proxy.session.get(f"{proxy.url}/api/users/events") as answer:
        assert await answer.content.readline() == b"data: 1\n"
        read.set()
        assert (await answer.read()).endswith(b"data: 2\n\n")


async def test_websockets_pass_text_binary_and_closing(proxy: Proxy, upstream: Neighbour) -> None:
    closed: list[int | None] = []

    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse(protocols=["chat"])
        await answer.prepare(request)
        async for message in answer:
            if message.type == aiohttp.WSMsgType.TEXT:
                await answer.send_str(message.data.upper())
            else:
                await answer.send_bytes(message.data[::-1])
        closed.append(answer.close_code)
        return answer

    socket.streaming = True  # type: ignore[attr-defined]
    upstream.on("/base/ws", socket)
    async with proxy.session.ws_connect(
        f"{proxy.url}/api/users/ws", protocols=["chat", "other"]
    ) as ws:
        assert ws.protocol == "chat"
        await ws.send_str("안녕 a")
        assert await ws.receive_str() == "안녕 A"
        await ws.send_bytes(b"\x01\x02")
        assert await ws.receive_bytes() == b"\x02\x01"
        await ws.close(code=3001)

    async def over() -> bool:
        return bool(closed)

    await eventually(over)
    assert closed == [3001]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/nobody/ws", 404),
        ("/api/users/%2e%2e/ws", 400),
        ("/v1/ws", 404),
        ("/api/users/no", 502),
    ],
)
async def test_websockets_that_are_refused(
    proxy: Proxy, upstream: Neighbour, path: str, status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await proxy.session.ws_connect(URL(proxy.url + path, encoded=True))
    assert refused.value.status == status


@pytest.mark.parametrize("cache", [None, {"ttl_seconds": 60}])
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2/models/digits/infer", "/v2/models/{model}/infer"),
        ("/v1/predict/digits", "/v1/predict/{model}"),
        ("/v1/ensembles/all", "/v1/ensembles/{name}"),
        ("/v1/pipelines/row", "/v1/pipelines/{name}"),
    ],
)
async def test_who_hangs_up_frees_the_backend(
    model: Neighbour, path: str, route: str, cache: dict[str, Any] | None
) -> None:
    """Found: only /v2 without a cache did; /v1 let the model go on for nobody."""
    asked = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(60)
        return web.Response()

    model.on("/v2/models/digits/infer", hang)
    body = b'{"instances":[[' + b",".join([b"1"] * 64) + b"]]}"
    settings: dict[str, Any] = {
        "backends": {"digits": {"type": "http", "url": model.url, "cache": cache}},
        "ensembles": {"all": {"members": [{"model": "digits"}]}},
        "pipelines": {"row": {"steps": [{"model": "digits"}]}},
    }
    async with proxy_with(**settings) as proxy:
        headers = {"content-type": "application/json"}
        task = asyncio.create_task(proxy.session.post(proxy.url + path, data=body, headers=headers))
        await asked.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

        async def freed() -> bool:
            return await proxy.metric('slipway_proxy_backend_in_flight{backend="digits"}') == 0

        await eventually(freed)

        async def told() -> bool:
            labels = f'http_route="{route}",type="caller-hung-up"'
            return await proxy.metric(f"slipway_proxy_failures_total{{{labels}}}") == 1

        await eventually(told)


async def test_expect_continue_is_answered(proxy: Proxy, model: Neighbour) -> None:
    answer = await speak(
        proxy.url,
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\nConnection: close\r\n\r\n{}",
    )
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert model.seen[0].body == b"{}"
    assert model.seen[0].header("expect") is None


async def test_pipelined_requests_are_answered_in_order(proxy: Proxy, upstream: Neighbour) -> None:
    async def which(request: web.Request) -> web.Response:
        if request.path.endswith("1"):
            await asyncio.sleep(0.05)
        return web.Response(text=request.path)

    upstream.on("*", which)
    one = b"GET /api/users/1 HTTP/1.1\r\nHost: a\r\n\r\n"
    two = b"GET /api/users/2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    parts = URL(proxy.url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    writer.write(one + two)
    got = await asyncio.wait_for(reader.read(-1), SECONDS)
    writer.close()
    assert got.index(b"/base/1") < got.index(b"/base/2")


@pytest.mark.parametrize("header", ["bogus", "-1"])
async def test_a_timeout_that_is_none_is_400(proxy: Proxy, header: str) -> None:
    async with proxy.session.post(
        f"{proxy.url}/v2/models/digits/infer", data=b"{}", headers={"x-request-timeout": header}
    ) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"], "the protocol's clients look here"


async def test_shadow_traffic_is_marked(proxy: Proxy, model: Neighbour) -> None:
    for host, mark in (("proxy-shadow:8080", "true"), ("proxy", None)):
        model.seen.clear()
        async with proxy.session.post(
            f"{proxy.url}/v2/models/digits/infer", data=b"{}", headers={"Host": host}
        ) as answer:
            assert answer.status == 200
        assert model.seen[0].header("x-slipway-shadow") == mark


async def test_draining_answers_ask_to_reconnect(proxy: Proxy) -> None:
    proxy.health.draining = True
    async with proxy.session.get(f"{proxy.url}/v1/about") as answer:
        assert answer.headers["Connection"] == "close"


async def test_traces_are_passed_on(proxy: Proxy, model: Neighbour) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers: Any = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "tracestate": "a=b"}
    async with proxy.session.post(
        f"{proxy.url}/v2/models/digits/infer", data=b"{}", headers=headers
    ) as answer:
        assert answer.status == 200
    (seen,) = model.seen
    given = seen.header("traceparent") or ""
    assert given.startswith(f"00-{trace}-") and given.endswith("-01")
    assert "b7ad6b7169203331" not in given
    assert seen.header("tracestate") == "a=b"


async def test_a_request_is_a_span_between_its_caller_and_the_model(model: Neighbour) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from kit.telemetry.spans import configure

    exporter = InMemorySpanExporter()
    spans = configure("proxy", exporter=exporter)
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    backends = {"digits": {"type": "http", "url": model.url}}
    async with proxy_with(backends=backends, spans=spans) as proxy:
        for sent in ({"traceparent": f"00-{trace}-{caller}-01"}, {}):
            async with proxy.session.post(
                f"{proxy.url}/v2/models/digits/infer", data=b"{}", headers=sent
            ) as answer:
                assert answer.status == 200
    first, second = exporter.get_finished_spans()
    assert first.name == "POST /v2/models/{model}/infer"
    assert first.attributes is not None and first.parent is not None
    assert f"{first.context.trace_id:032x}" == trace
    assert f"{first.parent.span_id:016x}" == caller
    assert first.attributes["http.response.status_code"] == 200
    assert first.attributes["slipway.model"] == "digits"
    given = [seen.header("traceparent") or "" for seen in model.seen]
    assert [each.split("-")[2] for each in given] == [
        f"{span.context.span_id:016x}" for span in (first, second)
    ]
    assert second.parent is None


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_an_upgrade_that_is_not_made_is_ignored_and_its_body_passed_on(
    proxy: Proxy, upstream: Neighbour, protocol: bytes
) -> None:
    upstream.on("*", _echo)
    answer = await speak(
        proxy.url,
        b"POST /api/users/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        b"Upgrade: %b\r\nContent-Length: 4\r\n\r\nbody" % protocol,
    )
    assert answer.startswith(b"HTTP/1.1 207 ")
    assert answer.endswith(b"body")


async def test_a_client_that_closed_its_sending_side_is_answered(
    proxy: Proxy, upstream: Neighbour
) -> None:
    upstream.on("*", _echo)
    parts = URL(proxy.url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    writer.write(b"POST /api/users/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b"HTTP/1.1 207 " in answer
    assert answer.endswith(b"body")
