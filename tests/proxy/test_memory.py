"""What one request may cost: small bodies that stand for much, against the memory of a pod."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import aiohttp
import pytest

from tests.memory import peak, picture
from tests.proxy.conftest import Neighbour
from tests.proxy.processes import running
from tests.proxy.test_app import png

pytestmark = pytest.mark.timeout(300)
MEBIBYTE = 1 << 20
LIMIT = 384 * MEBIBYTE
"""The proxy's memory limit in values/base; a third of it is for decoding."""
POD = {"decode_memory_bytes": LIMIT // 3, "access_log": "off"}


JSON = "application/json"
FLOODS: dict[str, tuple[str, bytes, int]] = {
    "a WebP of 676 bytes": ("image/webp", picture(4000, "WEBP", lossless=True), 8),
    "pictures of 3 million pixels": ("image/webp", picture(1800, "WEBP", lossless=True), 8),
    "24 MB of numbers": (JSON, b"[[" + b"1," * 12_000_000 + b"1]]", 2),
    "empty lists": (JSON, b"[" + b"[]," * 2_000_000 + b"[]]", 4),
    "objects": (JSON, b"[" + b'{"a":1},' * 1_000_000 + b"{}]", 4),
    "lines of CSV": ("text/csv", b"1\n" * 4_000_000, 4),
    "cells of CSV": ("text/csv", b"1.5," * 2_000_000 + b"1", 4),
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
