"""Jobs against a real Redis, with real workers."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import aiohttp
import orjson
import pytest
import redis.asyncio as redis
from aiohttp import web
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from kit.telemetry.spans import configure
from proxy.jobs.queue import ENDED, PRIORITIES, Keys
from tests.proxy.conftest import METADATA, Neighbour, Proxy, eventually, proxy_with, worker_with

ROWS = b'{"instances":[' + orjson.dumps([1.0] * 64) + b"]}"
JSON = {"content-type": "application/json"}


@pytest.fixture
def settings(redis_url: str, model: Neighbour) -> dict[str, Any]:
    return {
        "backends": {"digits": {"type": "http", "url": model.url}},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "jobs": {"backoff_seconds": 0.05, "lease_seconds": 1.0},
        "retry_ratio": 0.0,
    }


async def submit(proxy: Proxy, query: str = "", **headers: str) -> dict[str, Any]:
    async with proxy.session.post(
        f"{proxy.url}/v1/jobs/digits{query}", data=ROWS, headers=JSON | headers
    ) as answer:
        document: dict[str, Any] = await answer.json()
        assert answer.status == 202, document
        assert answer.headers["Location"] == f"/v1/jobs/{document['id']}"
        return document


async def job(proxy: Proxy, identity: str) -> dict[str, Any]:
    async with proxy.session.get(f"{proxy.url}/v1/jobs/{identity}") as answer:
        document: dict[str, Any] = await answer.json()
        assert answer.status == 200, document
        return document


async def ended(proxy: Proxy, identity: str, seconds: float = 10.0) -> dict[str, Any]:
    async def check() -> Any:
        found = await job(proxy, identity)
        return found if found["state"] in ENDED else None

    document: dict[str, Any] = await eventually(check, seconds=seconds)
    return document


async def test_a_job_is_queued_run_and_answered(settings: dict[str, Any]) -> None:
    async with proxy_with(**settings) as proxy:
        submitted = await submit(proxy)
        assert (await job(proxy, submitted["id"]))["state"] == "queued"
        async with worker_with(**settings):
            found = await ended(proxy, submitted["id"])
    assert found["state"] == "succeeded"
    assert found["result"]["label"] == "7"
    assert found["progress"] == 1
    assert found["attempts"] == 1
    assert found["created"] <= found["started"] <= found["finished"]


async def test_the_same_idempotency_key_is_the_same_job(settings: dict[str, Any]) -> None:
    async with proxy_with(**settings) as proxy:
        first = await submit(proxy, **{"idempotency-key": "once"})
        again = await submit(proxy, **{"idempotency-key": "once"})
        other = await submit(proxy, **{"idempotency-key": "twice"})
    assert first["id"] == again["id"] != other["id"]


async def test_an_idempotency_key_is_for_one_request(settings: dict[str, Any]) -> None:
    """Found: another body or model was answered 202 with the first one's job."""
    settings["backends"]["letters"] = settings["backends"]["digits"]
    key = JSON | {"idempotency-key": "once"}
    async with proxy_with(**settings) as proxy:
        first = await submit(proxy, **{"idempotency-key": "once"})
        for path, body in (
            ("/v1/jobs/digits", ROWS.replace(b"1.0", b"2.0", 1)),
            ("/v1/jobs/letters", ROWS),
            ("/v1/jobs/digits?priority=high", ROWS),
        ):
            async with proxy.session.post(proxy.url + path, data=body, headers=key) as answer:
                document = await answer.json()
            assert answer.status == 422, path
            assert document["type"] == "urn:slipway:problem:idempotency-key-reused"
            assert first["id"] in document["detail"]


async def test_a_failing_model_is_tried_again_and_then_given_up(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.json_response({"error": "no"}, status=500)

    model.on("/v2/models/digits/infer", fail)
    async with proxy_with(**settings) as proxy, worker_with(**settings) as worker:
        found = await ended(proxy, (await submit(proxy))["id"])
        async with proxy.session.get(f"{worker}/metrics") as answer:
            metrics = await answer.text()
    assert found["state"] == "failed"
    assert found["attempts"] == 3
    assert found["error"]["type"] == "urn:slipway:problem:model-failed"
    assert 'slipway_jobs_total{model="digits",outcome="retried"} 2.0' in metrics
    client = redis.Redis.from_url(settings["redis_url"])
    dead = await client.xrange(Keys(settings["redis_prefix"]).dead)
    await client.aclose()
    assert [fields[b"id"].decode() for _, fields in dead] == [found["id"]]


async def test_a_busy_model_delays_a_job_and_costs_it_no_attempt(
    settings: dict[str, Any], model: Neighbour
) -> None:
    """A queue of jobs as long as a model server's own is no failure of any of them."""
    path = "/v2/models/digits/infer"
    usual = model.handlers[path]
    busy = iter(range(5))  # more often than the attempts it has

    async def at_first_full(request: web.Request) -> web.StreamResponse:
        if next(busy, None) is None:
            return await usual(request)
        full = {"error": "the queue is full"}
        return web.json_response(full, status=429, headers={"retry-after": "0"})

    model.on(path, at_first_full)
    async with proxy_with(**settings) as proxy, worker_with(**settings) as worker:
        found = await ended(proxy, (await submit(proxy))["id"])
        async with proxy.session.get(f"{worker}/metrics") as answer:
            metrics = await answer.text()
    assert found["state"] == "succeeded"
    assert found["attempts"] == 1
    assert 'slipway_jobs_total{model="digits",outcome="deferred"} 5.0' in metrics


async def test_bad_input_is_not_tried_again(settings: dict[str, Any]) -> None:
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        async with proxy.session.post(
            f"{proxy.url}/v1/jobs/digits", data=b'{"instances":[[1,2]]}', headers=JSON
        ) as answer:
            identity = (await answer.json())["id"]
        found = await ended(proxy, identity)
    assert found["state"] == "failed"
    assert found["attempts"] == 1
    assert "shape" in found["detail"]


async def test_a_job_past_its_deadline_expires(settings: dict[str, Any], model: Neighbour) -> None:
    async with proxy_with(**settings) as proxy:
        submitted = await submit(proxy, "?seconds=0.01")
        await asyncio.sleep(0.02)
        async with worker_with(**settings):
            found = await ended(proxy, submitted["id"])
    assert found["state"] == "expired"
    assert not [seen for seen in model.seen if seen.path.endswith("/infer")]


async def test_high_priority_goes_first(settings: dict[str, Any], model: Neighbour) -> None:
    async with proxy_with(**settings) as proxy:
        low = await submit(proxy, "?priority=low")
        normal = await submit(proxy)
        high = await submit(proxy, "?priority=high")
        async with worker_with(**settings | {"worker_concurrency": 1}):
            for each in (low, normal, high):
                await ended(proxy, each["id"])
        started = [(await job(proxy, each["id"]))["started"] for each in (high, normal, low)]
    assert started == sorted(started)


async def test_cancelling_a_queued_and_a_running_job(
    settings: dict[str, Any], model: Neighbour
) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        asked.set()
        await release.wait()
        return web.Response(status=500)

    model.on("/v2/models/digits/infer", wait)
    async with proxy_with(**settings) as proxy:
        queued = await submit(proxy)
        async with proxy.session.delete(f"{proxy.url}/v1/jobs/{queued['id']}") as answer:
            assert (await answer.json())["state"] == "cancelled"
        async with worker_with(**settings) as worker:
            running = await submit(proxy)
            await asked.wait()
            async with proxy.session.delete(f"{proxy.url}/v1/jobs/{running['id']}") as answer:
                assert (await answer.json())["state"] == "cancelled"

            async def dropped() -> bool:
                async with proxy.session.get(f"{worker}/metrics") as found:
                    return 'outcome="cancelled"} 1.0' in await found.text()

            await eventually(dropped)
            release.set()
            async with proxy.session.delete(f"{proxy.url}/v1/jobs/{running['id']}") as answer:
                assert answer.status == 200  # cancelling twice is cancelling
        for each in (queued, running):
            assert (await job(proxy, each["id"]))["state"] == "cancelled"


async def test_an_ended_job_cannot_be_cancelled(settings: dict[str, Any]) -> None:
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        found = await ended(proxy, (await submit(proxy))["id"])
        async with proxy.session.delete(f"{proxy.url}/v1/jobs/{found['id']}") as answer:
            assert answer.status == 409
            assert (await answer.json())["type"] == "urn:slipway:problem:job-ended"


async def test_events_follow_a_job_to_its_end(settings: dict[str, Any]) -> None:
    async with proxy_with(**settings) as proxy:
        submitted = await submit(proxy)
        states: list[str] = []
        async with proxy.session.get(f"{proxy.url}/v1/jobs/{submitted['id']}/events") as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            async with worker_with(**settings):
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        states.append(orjson.loads(line[6:])["state"])
    assert states[0] == "queued"
    assert states[-1] == "succeeded"


async def test_followers_are_bounded_and_take_nothing_from_who_submits(
    settings: dict[str, Any],
) -> None:
    """Found: each follower held one of the connections that submits and looks need."""
    few = settings | {"jobs": settings["jobs"] | {"max_followers": 2}}
    async with proxy_with(**few) as proxy:
        first = await submit(proxy)
        events = f"{proxy.url}/v1/jobs/{first['id']}/events"
        following = [await proxy.session.get(events) for _ in range(2)]
        assert [answer.status for answer in following] == [200, 200]
        async with proxy.session.get(events) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
            document = await answer.json()
            assert document["type"] == "urn:slipway:problem:too-many-followers"
        await submit(proxy)
        assert (await job(proxy, first["id"]))["state"] == "queued"
        following[0].close()

        async def room() -> bool:
            async with proxy.session.get(events) as answer:
                return answer.status == 200

        await eventually(room)
        following[1].close()

        async def unknown() -> bool:
            async with proxy.session.get(f"{proxy.url}/v1/jobs/{'0' * 32}/events") as answer:
                return answer.status == 404

        await eventually(unknown)
        assert [await unknown() for _ in range(3)] == [True] * 3, "a 404 keeps no place"


async def test_events_of_an_unknown_job_are_a_404(settings: dict[str, Any]) -> None:
    async with (
        proxy_with(**settings) as proxy,
        proxy.session.get(f"{proxy.url}/v1/jobs/{'0' * 32}/events") as answer,
    ):
        assert answer.status == 404


async def test_a_large_batch_reports_its_progress(
    settings: dict[str, Any], model: Neighbour
) -> None:
    seen: list[float] = []
    async with proxy_with(**settings) as proxy:

        async def infer(request: web.Request) -> web.Response:
            header = orjson.loads(
                (await request.read())[: int(request.headers["Inference-Header-Content-Length"])]
            )
            count = header["inputs"][0]["shape"][0]
            seen.append((await job(proxy, identity))["progress"])
            rows = [0.1] * 10 * count
            output = {"name": "probabilities", "datatype": "FP32", "shape": [count, 10]}
            return web.json_response({"outputs": [output | {"data": rows}]})

        model.on("/v2/models/digits/infer", infer)
        body = orjson.dumps({"instances": [[1.0] * 64] * 10})
        async with proxy.session.post(
            f"{proxy.url}/v1/jobs/digits", data=body, headers=JSON
        ) as answer:
            identity = (await answer.json())["id"]
        chunked = settings | {"jobs": settings["jobs"] | {"chunk_rows": 4}}
        async with worker_with(**chunked):
            found = await ended(proxy, identity)
    assert seen == [0, 0.4, 0.8]
    assert len(found["result"]["predictions"]) == 10


@pytest.mark.parametrize("batching", [None, {}, {"enabled": False}, {"enabled": "true"}])
async def test_a_batch_is_not_split_for_a_model_whose_rows_may_meet(
    settings: dict[str, Any], model: Neighbour, batching: Any
) -> None:
    """Found: each part of a job got other answers than the batch for such a model."""
    asked: list[int] = []

    async def metadata(_: web.Request) -> web.Response:
        properties = {k: v for k, v in METADATA["properties"].items() if k != "batching"}
        said = {} if batching is None else {"batching": batching}
        return web.json_response(METADATA | {"properties": properties | said})

    async def infer(request: web.Request) -> web.Response:
        """Each row's answer is its share among all rows."""
        size = int(request.headers["Inference-Header-Content-Length"])
        count = orjson.loads((await request.read())[:size])["inputs"][0]["shape"][0]
        asked.append(count)
        output = {"name": "probabilities", "datatype": "FP32", "shape": [count, 10]}
        return web.json_response({"outputs": [output | {"data": [1 / count] * 10 * count}]})

    model.on("/v2/models/digits", metadata)
    model.on("/v2/models/digits/infer", infer)
    chunked = settings | {"jobs": settings["jobs"] | {"chunk_rows": 4}}
    async with proxy_with(**settings) as proxy, worker_with(**chunked):
        body = orjson.dumps({"instances": [[1.0] * 64] * 10})
        async with proxy.session.post(
            f"{proxy.url}/v1/jobs/digits", data=body, headers=JSON
        ) as answer:
            identity = (await answer.json())["id"]
        found = await ended(proxy, identity)
    assert asked == [10]
    assert [row["probability"] for row in found["result"]["predictions"]] == [0.1] * 10


async def test_jobs_belong_to_who_submitted_them(settings: dict[str, Any]) -> None:
    from hashlib import sha256

    keys = {
        name: {"sha256": sha256(name.encode()).hexdigest(), "scopes": ["jobs:digits"]}
        for name in ("alice", "bob")
    }
    async with proxy_with(**settings, api_keys=keys, auth_required=True) as proxy:
        mine = await submit(proxy, **{"x-api-key": "alice"})
        for key, status in (("alice", 200), ("bob", 404)):
            async with proxy.session.get(
                f"{proxy.url}/v1/jobs/{mine['id']}", headers={"x-api-key": key}
            ) as answer:
                assert answer.status == status


async def test_without_redis_jobs_answer_503_and_predictions_go_on(
    settings: dict[str, Any],
) -> None:
    gone = settings | {"redis_url": "redis://127.0.0.1:1/0"}
    async with proxy_with(**gone) as proxy:
        async with proxy.session.post(
            f"{proxy.url}/v1/jobs/digits", data=ROWS, headers=JSON
        ) as answer:
            assert answer.status == 503
            assert (await answer.json())["type"] == "urn:slipway:problem:jobs-unavailable"
            assert answer.headers["Retry-After"]
        async with proxy.session.post(
            f"{proxy.url}/v1/predict/digits", data=ROWS, headers=JSON
        ) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("places", [1, 32])
async def test_a_worker_that_stops_hands_its_jobs_back_uncounted(
    settings: dict[str, Any], model: Neighbour, places: int
) -> None:
    """Found: with every place taken it waited for one before it looked whether to stop."""
    asked = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(60)
        return web.Response()

    first = model.handlers["/v2/models/digits/infer"]
    async with proxy_with(**settings) as proxy:
        submitted = await submit(proxy)
        model.on("/v2/models/digits/infer", hang)
        quick = {"drain_seconds": 0.05, "worker_concurrency": places}
        async with asyncio.timeout(10), worker_with(**settings | quick):
            await asked.wait()
        found = await job(proxy, submitted["id"])
        assert (found["state"], found["attempts"]) == ("queued", 0)
        model.on("/v2/models/digits/infer", first)
        async with worker_with(**settings):
            assert (await ended(proxy, submitted["id"]))["attempts"] == 1


async def test_large_inputs_without_a_bucket_are_refused_by_name(settings: dict[str, Any]) -> None:
    async with (
        proxy_with(**settings) as proxy,
        proxy.session.post(
            f"{proxy.url}/v1/jobs/digits", data=b"[" + b"1," * 150_000 + b"1]", headers=JSON
        ) as answer,
    ):
        assert answer.status == 413
        assert "bucket" in (await answer.json())["detail"]


async def test_queue_depth_is_a_metric(settings: dict[str, Any]) -> None:
    async with proxy_with(**settings) as proxy, aiohttp.ClientSession():
        await submit(proxy)

        async def counted() -> bool:
            return await proxy.metric('slipway_jobs_queue_depth{queue="normal"}') == 1

        await eventually(counted)


async def test_a_job_is_a_span_between_the_request_that_submitted_it_and_the_model(
    settings: dict[str, Any], model: Neighbour
) -> None:
    exporters = {name: InMemorySpanExporter() for name in ("proxy", "worker")}
    spans = {name: configure(name, exporter=each) for name, each in exporters.items()}
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with proxy_with(**settings, spans=spans["proxy"]) as proxy:
        submitted = await submit(proxy, traceparent=f"00-{trace}-b7ad6b7169203331-01")
        async with worker_with(**settings, spans=spans["worker"]):
            await ended(proxy, submitted["id"])
    request = exporters["proxy"].get_finished_spans()[0]
    (work,) = exporters["worker"].get_finished_spans()
    assert (request.name, work.name) == ("POST /v1/jobs/{model}", "process digits")
    assert work.attributes is not None and work.parent is not None
    assert f"{work.context.trace_id:032x}" == trace
    assert work.parent.span_id == request.context.span_id
    assert work.kind is SpanKind.CONSUMER
    assert work.attributes["messaging.message.id"] == submitted["id"]
    assert work.attributes["slipway.job.state"] == "succeeded"
    assert work.resource.attributes["service.name"] == "worker"
    (asked,) = [seen for seen in model.seen if seen.path.endswith("/infer")]
    assert asked.header("traceparent") == f"00-{trace}-{work.context.span_id:016x}-01"


async def test_an_emptied_redis_gets_its_scripts_and_groups_again(
    settings: dict[str, Any], redis_url: str
) -> None:
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        await ended(proxy, (await submit(proxy))["id"])
        client = redis.Redis.from_url(redis_url)
        keys = Keys(settings["redis_prefix"])
        await client.script_flush()
        await client.delete(*(keys.stream(priority) for priority in PRIORITIES))
        await client.aclose()
        assert (await ended(proxy, (await submit(proxy))["id"]))["state"] == "succeeded"
