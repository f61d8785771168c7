"""What a request costs the proxy follows the work it asks for, not the bytes that say so."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web

from kit.http import request_headers
from kit.http.problem import Problem
from kit.memory.budget import BusyError
from kit.pictures.pool import Decoding
from proxy.gateway.identity import MOST_PARAMETERS
from proxy.http import paths, propagation
from proxy.jobs.queue import document
from proxy.predictions.answers import Prediction
from proxy.predictions.infer_cache import MOST_JSON_BYTES
from proxy.services import Services
from proxy.store.s3 import Blobs
from tests.proxy.conftest import METADATA, Neighbour, Proxy, proxy_with

JSON = {"content-type": "application/json"}
INFER = "/v2/models/digits/infer"
ROW = [[0.0] * 64]
MEBIBYTE = 1 << 20


@pytest.fixture
def settings(model: Neighbour, redis_url: str) -> dict[str, Any]:
    return {
        "backends": {
            "digits": {"type": "http", "url": model.url, "cache": {}},
            "plain": {"type": "http", "url": model.url, "model": "digits"},
        },
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
    }


def answers(model: Neighbour, values: np.ndarray, **properties: Any) -> None:
    """Let the neighbour answer every infer request with this tensor, in binary."""

    async def infer(_: web.Request) -> web.Response:
        raw = values.astype(np.float32).tobytes()
        head = orjson.dumps(
            {
                "model_name": "digits",
                "outputs": [
                    {
                        "name": "probabilities",
                        "datatype": "FP32",
                        "shape": list(values.shape),
                        "parameters": {"binary_data_size": len(raw)},
                    }
                ],
            }
        )
        length = {"Inference-Header-Content-Length": str(len(head))}
        return web.Response(body=head + raw, headers=length)

    async def metadata(_: web.Request) -> web.Response:
        return web.json_response(METADATA | {"properties": properties})

    model.on("/v2/models/digits/infer", infer)
    model.on("/v2/models/digits", metadata)


def services_of(proxy: Proxy) -> Services:
    found: Services = proxy.app.app.services
    return found


async def predicted(proxy: Proxy, rows: Any = ROW) -> tuple[int, dict[str, Any]]:
    url = f"{proxy.url}/v1/predict/plain"
    async with proxy.session.post(url, data=orjson.dumps(rows), headers=JSON) as answer:
        return answer.status, orjson.loads(await answer.read())


@contextmanager
def watched_threads() -> Iterator[list[str]]:
    """What is decoded or written in threads meanwhile."""
    seen: list[str] = []
    run = Decoding.run

    async def noted(self: Decoding, size: int, what: str, *rest: Any, **named: Any) -> Any:
        seen.append(what)
        return await run(self, size, what, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoding, "run", noted)
        yield seen


async def test_large_json_passes_the_cache_by(settings: dict[str, Any], model: Neighbour) -> None:
    """Found: 30 MB of empty lists took 1,056 MiB and stopped the loop for 4.5 s."""
    body = b'{"inputs":[' + b"[]," * (MOST_JSON_BYTES // 3) + b"[]]}"
    async with proxy_with(**settings) as proxy:
        for _ in range(2):
            async with proxy.session.post(f"{proxy.url}{INFER}", data=io.BytesIO(body)) as answer:
                assert (answer.status, answer.headers["x-cache"]) == (200, "bypass")
                assert (await answer.json())["model_name"] == "digits"
    assert [seen.body for seen in model.seen if seen.path == INFER] == [body, body]


async def test_what_a_cache_remembers_counts_with_its_headers(settings: dict[str, Any]) -> None:
    """Found: the key held 60 kB of a caller's headers, of which nothing was counted."""
    body = orjson.dumps({"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64],
                                     "data": ROW}]})  # fmt: skip
    async with proxy_with(**settings) as proxy:
        for result in ("miss", "hit"):
            async with proxy.session.post(
                f"{proxy.url}{INFER}", data=body, headers={"x-anything": "a" * 7000}
            ) as answer:
                assert answer.headers["x-cache"] == result
        assert services_of(proxy).cache._memo._size > 7000


def test_nothing_long_stays_in_a_table_of_decisions() -> None:
    """Found: four tables kept up to 176 MiB of paths, names, hosts and queries of callers."""
    tables = (
        paths._model_path,
        propagation._may_choose_kept,
        propagation._passable_query_kept,
        request_headers._is_written_like_host,
    )
    before = [table.cache_info().currsize for table in tables]
    long = b"a" * 5000
    assert paths.model_path(b"/v2/models/" + long) is None
    assert not request_headers.is_host(long)
    assert propagation.choosing([(long, b"1")], b"q=" + long, None) == (
        ((long, b"1"),),
        b"q=" + long,
    )
    assert [table.cache_info().currsize for table in tables] == before


@pytest.mark.parametrize("path", ["/v1/predict/plain", "/v2/models/plain/infer", "/v1/models"])
async def test_a_query_of_very_many_parameters_is_refused_where_it_is_read(
    settings: dict[str, Any], path: str
) -> None:
    """Found: 60,000 ampersands stopped the loop for 0.3 s."""
    async with proxy_with(**settings) as proxy:
        for count, refused in ((MOST_PARAMETERS - 1, False), (MOST_PARAMETERS, True)):
            url = f"{proxy.url}{path}?{'&' * count}"
            async with proxy.session.post(url, data=orjson.dumps(ROW), headers=JSON) as answer:
                assert (b"parameters: send fewer" in await answer.read()) == refused


@pytest.mark.parametrize("labels", [[], [str(digit) for digit in range(10)]], ids=["no", "ten"])
async def test_a_large_answer_is_written_in_a_thread_and_is_the_same(
    settings: dict[str, Any], model: Neighbour, labels: list[str]
) -> None:
    """Found: an answer of 2 million numbers stopped the loop for 1 s."""
    values = np.random.default_rng(1).random((12_000, 10)).astype(np.float32)
    values[3, 4] = np.nan
    answers(model, values, labels=labels)
    async with proxy_with(**settings) as proxy:
        with watched_threads() as seen:
            status, document = await predicted(proxy)
        assert status == 200
        assert seen[-2:] == ["the model's answer", "the answer as JSON"]
        plain = Prediction(
            "plain", "1", "", "", {"probabilities": values}, tuple(labels),
            probabilities="probabilities" if labels else "", in_rows=bool(labels),
        )  # fmt: skip
        rows = orjson.loads(orjson.dumps(plain.rows()))
        # Without labels 12,000 rows for the one that was asked for are no rows.
        assert (
            document["predictions"] == rows
            if labels
            else document["outputs"] == (rows[0]["outputs"])
        )
        assert document["non_finite"] == 1
        assert services_of(proxy).predictor.decoding.free == (
            services_of(proxy).predictor.decoding.total
        )


async def test_an_answer_that_is_too_large_to_show_is_refused_by_name(
    settings: dict[str, Any], model: Neighbour
) -> None:
    answers(model, np.zeros((1, 1_000_000)))
    async with proxy_with(**settings, decode_memory_bytes=32 * MEBIBYTE) as proxy:
        status, document = await predicted(proxy)
        assert (status, document["type"]) == (400, "urn:slipway:problem:answer-too-large")
        assert "fewer rows" in document["detail"]
        assert "decode_memory_bytes" in document["detail"]


async def test_answers_count_among_the_bodies_in_memory(
    settings: dict[str, Any], model: Neighbour
) -> None:
    """Found: answers of any size were held by as many requests as came."""
    answers(model, np.zeros((1, 100_000)))
    async with proxy_with(**settings, body_memory_bytes=MEBIBYTE) as proxy:
        bodies = services_of(proxy).bodies
        bodies.take(800_000, "the bodies of others")
        status, document = await predicted(proxy)
        assert (status, document["type"]) == (429, "urn:slipway:problem:bodies-busy")
        bodies.give(800_000)
        assert (await predicted(proxy))[0] == 200
        assert bodies.free == bodies.total
        answers(model, np.zeros((1, 300_000)))
        status, document = await predicted(proxy)
        assert status == 502
        assert "larger than" in document["detail"]


def test_a_jobs_result_is_passed_on_as_it_was_written() -> None:
    """Found: a large result became Python objects again at every look at the job."""
    fields = {"model": b"m", "state": b"succeeded", "created": b"1", "deadline": b"2"}
    written = orjson.dumps(document("a", fields, b'{"predictions": [1, 2]}'))
    assert orjson.loads(written)["result"] == {"predictions": [1, 2]}
    assert b'{"predictions": [1, 2]}' in written


class StoredObject:
    """An object of S3 that notes whether it was read or closed."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def get_object(self, **_: Any) -> dict[str, Any]:
        return {"ContentLength": 500, "Body": self}

    def read(self) -> bytes:
        self.done.append("read")
        return b"x" * 500

    def close(self) -> None:
        self.done.append("closed")


def test_what_is_stored_is_counted_before_it_is_read() -> None:
    """Found: a worker read as many inputs of 32 MB side by side as it runs jobs."""
    found = StoredObject()
    blobs = Blobs("bucket")
    blobs._client = found
    held: list[int] = []

    def full(size: int) -> None:
        raise BusyError(f"{size} bytes")

    async def read() -> None:
        with pytest.raises(Problem) as refused:
            await blobs.get("key", full)
        assert (refused.value.status, refused.value.type) == (429, "bodies-busy")
        assert found.done == ["closed"]
        assert await blobs.get("key", held.append) == b"x" * 500

    try:
        asyncio.run(read())
    finally:
        blobs.close()
    assert held == [1000]
