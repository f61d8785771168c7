"""Jobs under which a worker dies: the guilty one fails by name, its neighbours lose nothing."""

from __future__ import annotations

import asyncio
import signal
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import redis.asyncio as redis
from aiohttp import web

from proxy.jobs.queue import ALONE, ENDED, GROUP, QUEUES, Keys
from tests.proxy.conftest import Neighbour, Proxy, eventually, proxy_with, worker_with
from tests.proxy.processes import Process, running

JSON = {"content-type": "application/json"}
INFER = "/v2/models/digits/infer"


@pytest.fixture
def settings(redis_url: str, model: Neighbour) -> dict[str, Any]:
    return {
        "backends": {"digits": {"type": "http", "url": model.url}},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "jobs": {"backoff_seconds": 0.05, "lease_seconds": 1.0},
        "retry_ratio": 0.0,
    }


async def submit(proxy: Proxy, shade: float) -> str:
    body = orjson.dumps({"instances": [[shade] * 64]})
    async with proxy.session.post(f"{proxy.url}/v1/jobs/digits", data=body, headers=JSON) as answer:
        document: dict[str, str] = await answer.json()
        assert answer.status == 202, document
        return document["id"]


async def job(proxy: Proxy, identity: str) -> dict[str, Any]:
    async with proxy.session.get(f"{proxy.url}/v1/jobs/{identity}") as answer:
        document: dict[str, Any] = await answer.json()
        return document


async def shade_of(request: web.Request) -> float:
    """The number by which a test knows the job that asks."""
    body = await request.read()
    header = int(request.headers["Inference-Header-Content-Length"])
    return float(np.frombuffer(body[header:], np.float32)[0])


async def test_a_job_that_ends_its_worker_fails_by_name_and_costs_its_neighbours_nothing(
    settings: dict[str, Any], model: Neighbour, tmp_path: Path
) -> None:
    """Found: a picture that needed too much memory killed three workers and every job beside it."""
    usual = model.handlers[INFER]
    workers: list[Process] = []
    together, known = asyncio.Event(), asyncio.Event()
    under_way: list[float] = []
    beside: dict[float, list[int]] = {1.0: [], 2.0: [], 3.0: [], 4.0: []}
    killer = 2.0

    async def infer(request: web.Request) -> web.StreamResponse:
        shade = await shade_of(request)
        await known.wait()
        under_way.append(shade)
        try:
            if len(workers) == 1:  # all four run in the first worker when it is killed
                if len(under_way) == 4:
                    together.set()
                await together.wait()
            beside[shade].append(len(under_way))
            if shade == killer:
                workers[-1].signal(signal.SIGKILL)
            if shade == killer or len(workers) == 1:
                await workers[-1].ended()
                return web.Response(status=500)
            return await usual(request)
        finally:
            under_way.remove(shade)

    model.on(INFER, infer)
    async with proxy_with(**settings) as proxy:
        jobs = {shade: await submit(proxy, shade) for shade in beside}

        async def all_ended() -> bool:
            return all([(await job(proxy, each))["state"] in ENDED for each in jobs.values()])

        async def ended_or_killed() -> bool:
            return workers[-1].process.poll() is not None or await all_ended()

        while not await all_ended():
            assert len(workers) < 3, "the job may end two workers, no more"
            async with running(tmp_path, "proxy", "worker", **settings, POD_NAME="w") as worker:
                workers.append(worker)
                known.set()
                await eventually(ended_or_killed, seconds=60)
                known.clear()
        found = {shade: await job(proxy, each) for shade, each in jobs.items()}
    guilty = found.pop(killer)
    assert guilty["state"] == "failed"
    assert guilty["error"]["type"] == "urn:slipway:problem:worker-died"
    assert "memory" in guilty["detail"]
    assert [each["state"] for each in found.values()] == ["succeeded"] * 3
    assert [each["attempts"] for each in found.values()] == [1] * 3
    assert set(beside.pop(killer)) == {4, 1}
    for numbers in beside.values():
        assert numbers == [4, 1], "with the others, then alone"


async def test_a_worker_that_lives_only_loses_its_claim(
    settings: dict[str, Any], redis_url: str
) -> None:
    """Who was slow is not suspected: the job runs beside others again, its attempt counted."""
    client = redis.Redis.from_url(redis_url)
    keys = Keys(settings["redis_prefix"])
    async with proxy_with(**settings) as proxy:
        identity = await submit(proxy, 1.0)
        await client.xgroup_create(keys.stream("normal"), GROUP, id="0")
        await client.xreadgroup(GROUP, "slow", {keys.stream("normal"): ">"})
        await client.hset(
            keys.job(identity), mapping={"state": "running", "attempts": 1, "worker": "slow"}
        )
        await client.set(keys.workers + "slow", "")
        async with worker_with(**settings):

            async def over() -> Any:
                found = await job(proxy, identity)
                return found if found["state"] in ENDED else None

            found = await eventually(over)
    assert (found["state"], found["attempts"]) == ("succeeded", 2)
    assert "detail" not in found
    await client.aclose()


async def test_a_worker_that_stops_gives_up_the_job_it_was_to_run_alone(
    settings: dict[str, Any], model: Neighbour, redis_url: str
) -> None:
    """It waited for the jobs beside it to end; the next worker has it at once."""
    asked, free = asyncio.Event(), asyncio.Event()
    usual = model.handlers[INFER]
    client = redis.Redis.from_url(redis_url)
    keys = Keys(settings["redis_prefix"])
    patient = settings | {"jobs": settings["jobs"] | {"lease_seconds": 300.0}}

    async def wait(request: web.Request) -> web.StreamResponse:
        if await shade_of(request) == 1.0:
            asked.set()
            await free.wait()
        return await usual(request)

    model.on(INFER, wait)
    async with proxy_with(**settings) as proxy:
        first, second = await submit(proxy, 1.0), await submit(proxy, 2.0)
        entries: Any = await client.xrevrange(keys.stream("normal"), count=1)
        await client.xdel(keys.stream("normal"), entries[0][0])
        async with worker_with(**patient):
            await asked.wait()
            await client.xadd(keys.stream(ALONE), {"id": second})

            async def reserved() -> bool:
                found = await client.xpending(keys.stream(ALONE), GROUP)
                return bool(found["pending"])

            await eventually(reserved)
            free.set()
        async with worker_with(**patient):

            async def all_ended() -> bool:
                states = [(await job(proxy, each))["state"] for each in (first, second)]
                return states == ["succeeded"] * 2

            await eventually(all_ended)
    assert [await client.xlen(keys.stream(queue)) for queue in QUEUES] == [0, 0, 0, 0]
    await client.aclose()


async def test_a_model_that_no_worker_knows_is_refused_at_once(
    settings: dict[str, Any], model: Neighbour
) -> None:
    """Found: the job was taken, and lost when a worker that did not know its model ran it."""
    both = settings | {"backends": settings["backends"] | {"faces": settings["backends"]["digits"]}}
    async with proxy_with(**both) as proxy:

        async def submitted(name: str) -> tuple[int, dict[str, Any]]:
            async with proxy.session.post(
                f"{proxy.url}/v1/jobs/{name}", data=b'{"instances":[[1]]}', headers=JSON
            ) as answer:
                return answer.status, await answer.json()

        assert (await submitted("faces"))[0] == 202, "without a worker nothing is known"
        async with worker_with(**settings):

            async def refused() -> Any:
                status, said = await submitted("faces")
                return said if status == 422 else None

            said = await eventually(refused)
            assert said["type"] == "urn:slipway:problem:unknown-to-workers"
            assert "'faces'" in said["detail"] and "(they know: digits)" in said["detail"]
            assert "PROXY_BACKENDS" in said["detail"]
            assert (await submitted("digits"))[0] == 202
            # One worker that knows it is enough.
            async with worker_with(**both):

                async def accepted() -> bool:
                    return (await submitted("faces"))[0] == 202

                await eventually(accepted)
