"""What one request may cost: small bodies that stand for much, against the memory of a pod."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.memory import peak, picture, together
from tests.proxy.conftest import Neighbour, neighbour
from tests.proxy.processes import running
from tests.proxy.test_app import png

pytestmark = pytest.mark.timeout(300)
MEBIBYTE = 1 << 20
LIMIT = 384 * MEBIBYTE
"""The proxy's memory limit in values/services; a third of it is for decoding."""
POD = {
    "decode_memory_bytes": LIMIT // 3,
    "body_memory_bytes": LIMIT // 6,
    "access_log": "off",
}


JSON = "application/json"
FLOODS: dict[str, tuple[str, bytes, int]] = {
    "a WebP of 676 bytes": ("image/webp", picture(4000, "WEBP", lossless=True), 8),
    "pictures of 3 million pixels": ("image/webp", picture(1800, "WEBP", lossless=True), 8),
    "24 MB of numbers": (JSON, b"[[" + b"1," * 12_000_000 + b"1]]", 2),
    "empty lists": (JSON, b"[" + b"[]," * 2_000_000 + b"[]]", 4),
    "objects": (JSON, b"[" + b'{"a":1},' * 1_000_000 + b"{}]", 4),
    "lines of CSV": ("text/csv", b"1\n" * 4_000_000, 4),
    "cells of CSV": ("text/csv", b"1.5," * 2_000_000 + b"1", 4),
    "long cells of CSV": ("text/csv", b",".join([b"1" * 131_000] * 200), 2),
}


async def test_nothing_small_takes_more_memory_than_a_pod_has(
    tmp_path: Path, model: Neighbour
) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    async with (
        running(tmp_path, "proxy", "serve", backends=backends, **POD) as proxy,
        aiohttp.ClientSession() as session,
    ):

        async def ask(kind: str, body: bytes) -> tuple[int, str]:
            url, headers = f"{proxy.url}/v1/predict/digits", {"content-type": kind}
            async with session.post(url, data=io.BytesIO(body), headers=headers) as answer:
                return answer.status, await answer.text()

        for name, (kind, body, times) in FLOODS.items():
            answers = await asyncio.gather(*(ask(kind, body) for _ in range(times)))
            for status, said in answers:
                assert status in (200, 400, 429), (name, status, said)
            assert peak(proxy.process.pid) < LIMIT, (name, peak(proxy.process.pid) // MEBIBYTE)
        assert (await ask("image/png", png()))[0] == 200
        assert proxy.process.poll() is None


async def test_requests_that_a_cache_would_know_again_take_no_more_memory_than_a_pod_has(
    tmp_path: Path, model: Neighbour
) -> None:
    """Found: JSON of 30 MB for a model with a cache took 1,056 MiB."""
    backends = {"digits": {"type": "http", "url": model.url, "cache": {}}}
    lists = b'{"inputs":[' + b"[]," * 8_000_000 + b"[]]}"
    numbers = b'{"inputs":[' + b"1," * 12_000_000 + b"1]}"
    async with (
        running(tmp_path, "proxy", "serve", backends=backends, **POD) as proxy,
        aiohttp.ClientSession() as session,
    ):
        for body in (lists, numbers):
            url = f"{proxy.url}/v2/models/digits/infer"
            async with session.post(url, data=io.BytesIO(body)) as answer:
                assert answer.headers["x-cache"] == "bypass"
            assert peak(proxy.process.pid) < LIMIT, peak(proxy.process.pid) // MEBIBYTE


async def test_a_message_of_a_websocket_is_bounded_and_never_unpacked(tmp_path: Path) -> None:
    """Found: 256 kB of compressed messages were 256 MB in one turn, each of up to 16 MiB."""
    sizes: list[int] = []

    async def take(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            sizes.append(len(message.data))
            await socket.send_bytes(b"x" * len(message.data))
        return socket

    async with neighbour() as upstream:
        take.streaming = True  # type: ignore[attr-defined]
        upstream.on("*", take)
        upstreams = {"chat": {"url": upstream.url}}
        async with (
            running(tmp_path, "proxy", "serve", upstreams=upstreams, **POD) as proxy,
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{proxy.url}/api/chat", compress=15) as socket,
        ):
            assert socket.compress == 0
            await socket.send_bytes(bytes(MEBIBYTE))
            assert len((await socket.receive()).data) == MEBIBYTE
            await socket.send_bytes(bytes(MEBIBYTE + 1))
            assert (await socket.receive()).data == 1009
    assert sizes == [MEBIBYTE]


async def test_many_large_bodies_at_once_take_no_more_memory_than_a_pod_has(
    tmp_path: Path, model: Neighbour
) -> None:
    """Found: nothing bounded bodies that are each below the limit of one."""
    backends = {"digits": {"type": "http", "url": model.url}}
    size, path = 30 * MEBIBYTE, "/v1/predict/digits"
    async with running(tmp_path, "proxy", "serve", backends=backends, **POD) as proxy:
        answers = await together(proxy.url, path, {"content-type": "image/png"}, size, 20)
        refused = [answer for answer in answers if answer.startswith("HTTP/1.1 429")]
        assert any("retry-after: 1" in answer.lower() for answer in refused)
        assert any("bodies-busy" in answer for answer in refused)
        assert any("HTTP/1.1 4" in answer and answer not in refused for answer in answers)
        assert peak(proxy.process.pid) < LIMIT, peak(proxy.process.pid) // MEBIBYTE
        # what was held is given back
        [alone] = await together(proxy.url, path, {"content-type": "image/png"}, size, 1)
        assert " 429 " not in alone.partition("\r\n")[0], alone


async def test_a_body_that_can_never_fit_is_413_with_the_setting_to_raise(
    tmp_path: Path, model: Neighbour
) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    given = POD | {"body_memory_bytes": MEBIBYTE}
    async with running(tmp_path, "proxy", "serve", backends=backends, **given) as proxy:
        for path in ("/v1/predict/digits", "/v2/models/digits/infer"):
            kind = {"content-type": "image/png"}
            [answer] = await together(proxy.url, path, kind, MEBIBYTE + 1, 1)
            assert answer.startswith("HTTP/1.1 413"), answer
            assert "PROXY_BODY_MEMORY_BYTES" in answer
