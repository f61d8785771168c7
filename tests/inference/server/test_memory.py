"""What one request may cost the model server: pictures, JSON and compressed bodies."""

from __future__ import annotations

import asyncio
import gzip
import io
import struct
from pathlib import Path

import aiohttp
import orjson
import pytest

from tests.inference import small_models
from tests.memory import peak, picture, together
from tests.proxy.processes import running

pytestmark = pytest.mark.timeout(300)
MEBIBYTE = 1 << 20
LIMIT = 768 * MEBIBYTE
"""The model server's memory limit in values/services; a third of it is for decoding."""
NO_JFIF = Path(__file__).parents[2] / "kit" / "pictures" / "no_jfif.jpg"


def infer(images: list[bytes]) -> tuple[dict[str, str], bytes]:
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    tensor = {"name": "x", "datatype": "BYTES", "shape": [len(images)]}
    head = orjson.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]})
    return {"inference-header-content-length": str(len(head))}, head + raw


async def test_nothing_small_takes_more_memory_than_a_pod_has(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    small_models.put(
        repository,
        "pictures",
        "1",
        small_models.identity("FP32", ["rows", 224 * 224]),
        preprocess=[
            {"transform": "decode_image", "mode": "L"},
            {"transform": "resize", "width": 224, "height": 224},
            {"transform": "scale"},
            {"transform": "reshape", "shape": [224 * 224]},
        ],
    )
    settings = {
        "model_repository": str(repository),
        "decode_memory_bytes": LIMIT // 3,
        "grpc_enabled": False,
    }
    floods: dict[str, tuple[tuple[dict[str, str], bytes], int]] = {
        "a WebP of 2 kB": (infer([picture(6300, "WEBP", lossless=True)]), 4),
        "pictures of 9 million pixels": (infer([picture(3000, "WEBP", lossless=True)]), 4),
        "a thousand pictures of a pixel": (infer([picture(1, "PNG")] * 1000), 4),
        "lists in JSON": (({}, b'{"inputs": [' + b"[]," * 2_700_000 + b"[]]}"), 4),
        "compressed zeros": (
            ({"content-encoding": "gzip"}, gzip.compress(b" " * 60 * MEBIBYTE)),
            16,
        ),
    }
    async with (
        running(tmp_path, "inference", "serve", **settings) as server,
        aiohttp.ClientSession() as session,
    ):
        url = f"{server.url}/v2/models/pictures/infer"

        async def ask(headers: dict[str, str], body: bytes) -> tuple[int, str]:
            async with session.post(url, data=io.BytesIO(body), headers=headers) as answer:
                return answer.status, await answer.text()

        for name, (request, times) in floods.items():
            answers = await asyncio.gather(*(ask(*request) for _ in range(times)))
            for status, said in answers:
                assert status in (200, 400, 413, 429), (name, status, said[:500])
            assert peak(server.process.pid) < LIMIT, (name, peak(server.process.pid) // MEBIBYTE)
        assert (await ask(*infer([picture(30, "PNG")])))[0] == 200
        async with session.post(
            f"{server.url}/invocations",
            data=NO_JFIF.read_bytes(),
            headers={"content-type": "application/octet-stream"},
        ) as answer:
            assert answer.status == 200, await answer.text()
        assert server.process.poll() is None


async def test_many_large_bodies_at_once_take_no_more_memory_than_a_pod_has(
    tmp_path: Path,
) -> None:
    """Found: nothing bounded bodies that are each below the limit of one."""
    repository = tmp_path / "models"
    small_models.put(repository, "m", "1", small_models.identity("FP32", ["rows", 1024]))
    settings = {
        "model_repository": str(repository),
        "decode_memory_bytes": LIMIT // 3,
        "body_memory_bytes": LIMIT // 6,
        "grpc_enabled": False,
    }
    size = 60 * MEBIBYTE
    async with running(tmp_path, "inference", "serve", **settings) as server:
        for path in ("/v2/models/m/infer", "/v1/models/m:predict", "/invocations"):
            answers = await together(server.url, path, {"content-encoding": "identity"}, size, 20)
            refused = [answer for answer in answers if answer.startswith("HTTP/1.1 429")]
            assert any("body_memory_bytes" in answer for answer in refused), path
            assert all("retry-after: 1" in answer.lower() for answer in refused), path
            assert any("HTTP/1.1 4" in answer and answer not in refused for answer in answers)
            assert peak(server.process.pid) < LIMIT, (path, peak(server.process.pid) // MEBIBYTE)
        [alone] = await together(server.url, "/v2/models/m/infer", {}, size, 1)
        assert " 429 " not in alone.partition("\r\n")[0], alone
