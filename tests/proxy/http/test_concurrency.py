"""A backend's places: taken when there is something to ask, and never all by one caller."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.resilience import Concurrency
from tests.proxy.conftest import Neighbour, eventually, proxy_with


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


IN_FLIGHT = 'slipway_proxy_backend_in_flight{backend="%s"}'
HEAD = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("path", ["/api/up/x", "/v2/models/digits/infer"])
async def test_bodies_that_are_not_there_take_no_place(
    model: Neighbour, upstream: Neighbour, path: str
) -> None:
    """Found: 260 chunked requests of one byte closed a model's backend to everybody for 30 s."""
    upstream.on("*", _echo)
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url, "max_concurrency": 2}},
        upstreams={"up": {"url": upstream.url, "max_concurrency": 2}},
    ) as proxy:
        host, port = proxy.url.removeprefix("http://").split(":")
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(HEAD % path.encode() + b"1\r\na\r\n")
            await writer.drain()
            writers.append(writer)

        async def all_are_being_read() -> bool:
            return await proxy.metric("http_server_active_requests") >= 20

        await eventually(all_are_being_read)
        assert await proxy.metric(IN_FLIGHT % "digits") == 0
        assert await proxy.metric(IN_FLIGHT % "api/up") == 0
        async with proxy.session.post(proxy.url + path, data=b"{}") as answer:
            assert answer.status == 200
        for writer in writers:
            writer.close()


async def test_a_chunked_body_is_passed_on_when_it_is_there(
    upstream: Neighbour,
) -> None:
    upstream.on("*", _echo)
    async with proxy_with(upstreams={"up": {"url": upstream.url}}) as proxy:
        for size in (0, 10, 1024 * 1024, 3 * 1024 * 1024):

            async def parts(size: int = size) -> Any:
                for at in range(0, size, 65536):
                    yield b"x" * min(65536, size - at)

            async with proxy.session.post(f"{proxy.url}/api/up/x", data=parts()) as answer:
                assert (answer.status, len(await answer.read())) == (200, size)


async def test_a_stream_that_comes_too_slowly_is_408(
    upstream: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.http.body.SLOW_UPLOAD_SECONDS", 0.1)
    upstream.on("*", _echo)
    async with proxy_with(upstreams={"up": {"url": upstream.url}}) as proxy:
        host, port = proxy.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(HEAD % b"/api/up/x" + b"180000\r\n" + b"x" * 0x180000 + b"\r\n")
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        assert await proxy.metric(IN_FLIGHT % "api/up") == 0
        writer.close()


async def test_one_caller_has_a_share_of_a_backend(model: Neighbour) -> None:
    """Found: one caller could have all that a backend may have in flight."""
    held, released = asyncio.Semaphore(0), asyncio.Event()

    async def hold(_: web.Request) -> web.Response:
        held.release()
        await released.wait()
        return web.json_response({"outputs": []})

    model.on("/v2/models/digits/infer", hold)
    keys = {name: {"sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("a", "b")}
    backend = {"type": "http", "url": model.url, "max_concurrency": 4, "caller_share": 0.5}
    async with proxy_with(backends={"digits": backend}, api_keys=keys) as proxy:

        async def ask(key: str) -> tuple[int, str]:
            async with proxy.session.post(
                f"{proxy.url}/v2/models/digits/infer", data=b"{}", headers={"x-api-key": key}
            ) as answer:
                return answer.status, await answer.text()

        tasks = [asyncio.create_task(ask("a")) for _ in range(2)]
        for _ in tasks:
            await held.acquire()
        status, said = await ask("a")
        assert (status, "one caller may have 2 of the 4" in said) == (429, True)
        tasks.append(asyncio.create_task(ask("b")))
        await held.acquire()
        released.set()
        assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 3


async def test_an_idle_websocket_gives_its_place_back(upstream: Neighbour) -> None:
    """Found: WebSockets that nobody used kept an upstream's places for good."""

    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(message.data)
        return answer

    socket.streaming = True  # type: ignore[attr-defined]
    upstream.on("/ws", socket)
    one = {"url": upstream.url, "idle_seconds": 0.3, "max_concurrency": 1}
    async with proxy_with(upstreams={"up": one}) as proxy:
        async with proxy.session.ws_connect(f"{proxy.url}/api/up/ws") as ws:
            await ws.send_str("a")
            assert await ws.receive_str() == "a"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await proxy.session.ws_connect(f"{proxy.url}/api/up/ws")
            assert refused.value.status == 429
            assert (await ws.receive(timeout=10)).type == aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 1001

        async def given_back() -> bool:
            return await proxy.metric(IN_FLIGHT % "api/up") == 0

        await eventually(given_back)


@given(
    st.integers(1, 9),
    st.floats(0.01, 1.0),
    st.lists(st.tuples(st.booleans(), st.sampled_from(["", "a", "b", "c"])), max_size=60),
)
def test_places_are_never_more_than_the_limit_nor_than_a_share(
    limit: int, share: float, steps: list[tuple[bool, str]]
) -> None:
    places = Concurrency(limit, share)
    inside: list[str] = []
    for enters, caller in steps:
        if enters:
            free = len(inside) < limit
            mine = not caller or inside.count(caller) < places.limit_of_one
            assert places.enter(caller) == (free and mine)
            if free and mine:
                inside.append(caller)
        elif caller in inside:
            inside.remove(caller)
            places.leave(caller)
        assert places.in_flight == len(inside) <= limit
        assert 1 <= places.limit_of_one <= limit
    for caller in inside:
        places.leave(caller)
    assert (places.in_flight, places._by_caller) == (0, {})
