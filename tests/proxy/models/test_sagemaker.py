"""SageMaker: moto where it answers as SageMaker does, a stub for each of its errors."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import boto3
import orjson
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from proxy.jobs.queue import ENDED
from tests.aws_calls import held_against_its_policy
from tests.ports import free_port
from tests.proxy.conftest import Neighbour, Proxy, eventually, neighbour, proxy_with, worker_with
from tests.proxy.faults import toxic

JSON = {"content-type": "application/json"}
BACKEND = {"type": "sagemaker", "endpoint": "digits-prod", "region": "eu-central-1"}
INVOKE = "/endpoints/digits-prod/invocations"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def calls() -> Iterator[set[str]]:
    """Found: asynchronous inference asked for more than the policy in docs/aws/iam allowed."""
    with held_against_its_policy("proxy") as seen:
        yield seen


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Neighbour]:
    async with neighbour() as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", found.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", found.url)
        yield found


async def ask(
    proxy: Proxy,
    path: str = "/v1/predict/digits",
    data: bytes = b'{"instances":[[1]]}',
    **more: str,
) -> tuple[int, dict[str, Any], Any]:
    async with proxy.session.post(proxy.url + path, data=data, headers=JSON | more) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def _answer(_: web.Request) -> web.Response:
    return web.json_response(
        {"label": "7", "probability": 0.9, "probabilities": {"7": 0.9}},
        headers={"x-Amzn-Invoked-Production-Variant": "blue"},
    )


async def test_an_invocation_carries_variant_trace_and_request_id(stub: Neighbour) -> None:
    stub.on(INVOKE, _answer)
    backend = BACKEND | {"target_variant": "blue", "inference_component": "part"}
    async with proxy_with(backends={"digits": backend}) as proxy:
        status, found, headers = await ask(proxy, **{"x-request-id": "req-9"})
    assert (status, found["label"], found["variant"]) == (200, "7", "blue")
    assert headers["X-Slipway-Variant"] == "blue"
    (seen,) = stub.seen
    assert seen.body == b'{"instances":[[1]]}'
    assert seen.header("x-amzn-sagemaker-target-variant") == "blue"
    assert seen.header("x-amzn-sagemaker-inference-component") == "part"
    assert seen.header("x-amzn-sagemaker-inference-id") == "req-9"
    attributes = seen.header("x-amzn-sagemaker-custom-attributes") or ""
    assert "traceparent=00-" in attributes and "request-id=req-9" in attributes
    assert (seen.header("authorization") or "").startswith("AWS4-HMAC-SHA256")


async def test_the_protocol_passes_to_it_as_json(stub: Neighbour) -> None:
    stub.on(INVOKE, _answer)
    async with proxy_with(backends={"digits": BACKEND}) as proxy:
        assert (await ask(proxy, "/v2/models/digits/infer"))[1]["label"] == "7"
        status, _, _ = await ask(
            proxy, "/v2/models/digits/infer", **{"inference-header-content-length": "2"}
        )
        assert status == 415


ERRORS = {
    "model error": (424, "ModelError", 502, "model-failed"),
    "model not ready": (429, "ModelNotReadyException", 503, "model-unavailable"),
    "throttled": (400, "ThrottlingException", 503, "model-unavailable"),
    "unavailable": (503, "ServiceUnavailable", 503, "model-unavailable"),
    "validation": (400, "ValidationError", 400, "bad-input"),
    "no access": (403, "AccessDeniedException", 502, "backend-credentials"),
    "internal": (500, "InternalFailure", 502, "upstream-broken"),
    "dependency": (530, "InternalDependencyException", 502, "upstream-broken"),
}


@pytest.mark.parametrize("case", ERRORS)
async def test_each_error_has_its_answer_and_is_asked_once(stub: Neighbour, case: str) -> None:
    sent, code, status, kind = ERRORS[case]

    async def fail(_: web.Request) -> web.Response:
        body = {"Message": "said so", "OriginalStatusCode": 500, "OriginalMessage": "out of memory"}
        return web.json_response(body, status=sent, headers={"x-amzn-ErrorType": code})

    stub.on(INVOKE, fail)
    async with proxy_with(backends={"digits": BACKEND}) as proxy:
        got, found, headers = await ask(proxy)
    assert (got, found["type"]) == (status, f"urn:slipway:problem:{kind}"), found
    assert len(stub.seen) == 1, "never a retry storm"
    if status == 503:
        assert headers["Retry-After"] == "5"
    if code == "ModelError":
        assert found["upstream_status"] == 500
        assert "out of memory" in found["detail"]


async def test_too_slow_is_504_and_the_place_is_kept_until_it_ends(stub: Neighbour) -> None:
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await release.wait()
        return await _answer(request)

    stub.on(INVOKE, slow)
    backend = BACKEND | {"max_concurrency": 1}
    async with proxy_with(backends={"digits": backend}) as proxy:
        status, found, _ = await ask(proxy, **{"x-request-timeout": "0.2"})
        assert (status, found["type"]) == (504, "urn:slipway:problem:deadline-exceeded")
        assert (await ask(proxy))[0] == 429, "its thread is still at it"
        release.set()

        async def free() -> bool:
            return (await ask(proxy))[0] == 200

        await eventually(free)


async def test_a_caller_in_a_hurry_does_not_close_it_to_the_others(stub: Neighbour) -> None:
    """Found: a short X-Request-Timeout counted as the endpoint's failure."""
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await release.wait()
        return await _answer(request)

    stub.on(INVOKE, slow)
    backend = BACKEND | {"breaker_failures": 2, "timeout_seconds": 0.5}
    async with proxy_with(backends={"digits": backend}) as proxy:
        hurried = [await ask(proxy, **{"x-request-timeout": "0.05"}) for _ in range(3)]
        assert [each[0] for each in hurried] == [504, 504, 504]
        patient = [await ask(proxy) for _ in range(3)]
        assert [each[0] for each in patient] == [504, 504, 503]
        assert patient[-1][1]["type"] == "urn:slipway:problem:circuit-open"
        release.set()


@pytest.mark.parametrize("how", ["cut_after", "reset_after"])
@pytest.mark.parametrize("at", [0, 10, 50_000])
async def test_cut_or_reset_is_502_and_asked_once(
    monkeypatch: pytest.MonkeyPatch, stub: Neighbour, how: str, at: int
) -> None:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 100_000)

    stub.on(INVOKE, large)
    async with toxic(stub.url) as between:
        setattr(between, how, at)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", between.url)
        async with proxy_with(backends={"digits": BACKEND}) as proxy:
            status, found, _ = await ask(proxy)
            assert (status, found["type"]) == (502, "urn:slipway:problem:upstream-broken")
            assert await proxy.metric('slipway_proxy_backend_in_flight{backend="digits"}') == 0
    assert len(stub.seen) == 1, "never a retry storm"


async def test_slow_is_only_slow(monkeypatch: pytest.MonkeyPatch, stub: Neighbour) -> None:
    stub.on(INVOKE, _answer)
    async with toxic(stub.url) as between:
        between.latency = 0.05
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", between.url)
        async with proxy_with(backends={"digits": BACKEND}) as proxy:
            assert (await ask(proxy))[0] == 200


async def test_nobody_there_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{free_port()}")
    async with proxy_with(backends={"digits": BACKEND}) as proxy:
        status, found, _ = await ask(proxy)
    assert (status, found["type"]) == (503, "urn:slipway:problem:upstream-unreachable")


async def test_six_megabytes_are_the_limit(stub: Neighbour) -> None:
    async with proxy_with(backends={"digits": BACKEND}) as proxy:
        from io import BytesIO

        async with proxy.session.post(
            f"{proxy.url}/v1/predict/digits",
            data=BytesIO(b"1" * (6 * 1024 * 1024 + 1)),
            headers=JSON,
        ) as answer:
            assert answer.status == 413
            assert "job" in (await answer.json())["detail"]
    assert stub.seen == []


def test_longer_than_sixty_seconds_cannot_be_asked_for() -> None:
    from pydantic import ValidationError

    from proxy.config.backends import SageMakerBackend

    with pytest.raises(ValidationError):
        SageMakerBackend(type="sagemaker", endpoint="x", timeout_seconds=61)


async def test_states_and_invocations_as_moto_gives_them(
    monkeypatch: pytest.MonkeyPatch, moto_url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", moto_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", moto_url)

    def prepare() -> None:
        client = boto3.client("sagemaker", region_name="eu-central-1")
        client.create_model(
            ModelName="m",
            ExecutionRoleArn="arn:aws:iam::123456789012:role/r",
            PrimaryContainer={"Image": "i", "ModelDataUrl": "s3://b/k"},
        )
        client.create_endpoint_config(
            EndpointConfigName="c",
            ProductionVariants=[
                {
                    "VariantName": "v",
                    "ModelName": "m",
                    "InstanceType": "ml.t2.large",
                    "InitialInstanceCount": 1,
                    "InitialVariantWeight": 1,
                }
            ],
        )
        client.create_endpoint(EndpointName="digits-prod", EndpointConfigName="c")

    await asyncio.to_thread(prepare)
    gone = BACKEND | {"endpoint": "nobody"}
    async with proxy_with(backends={"digits": BACKEND, "gone": gone}) as proxy:

        async def looked() -> Any:
            """On a busy machine boto3 takes longer to load its models than a state may take."""
            async with proxy.session.get(f"{proxy.url}/v1/models") as answer:
                found = {model["name"]: model for model in (await answer.json())["models"]}
            return found if found["digits"]["state"] == "ready" else None

        models = await eventually(looked)
        assert models["digits"]["endpoint_status"] == "InService"
        assert models["gone"]["state"] == "unavailable"
        status, found, _ = await ask(proxy)
        assert status == 200
        assert found["result"] == "body" or "result" in found


async def test_asynchronous_inference_is_a_job_through_s3(
    monkeypatch: pytest.MonkeyPatch, moto_url: str, redis_url: str, calls: set[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    bucket = f"async-{uuid.uuid4().hex[:8]}"
    s3 = boto3.client("s3", region_name="eu-central-1")
    await asyncio.to_thread(
        s3.create_bucket,
        Bucket=bucket,
        CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
    )
    output = {"bucket": bucket, "poll_seconds": 0.05}
    settings: dict[str, Any] = {
        "backends": {"digits": BACKEND | {"asynchronous": output}},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
    }
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        _, job, _ = await ask(proxy, "/v1/jobs/digits")

        async def ended() -> Any:
            async with proxy.session.get(f"{proxy.url}/v1/jobs/{job['id']}") as answer:
                found = await answer.json()
                return found if found["state"] in ENDED else None

        found = await eventually(ended)
    assert found["state"] == "succeeded", found
    stored = await asyncio.to_thread(s3.get_object, Bucket=bucket, Key=f"async/{job['id']}/input")
    assert orjson.loads(await asyncio.to_thread(stored["Body"].read)) == {"instances": [[1]]}
    assert {"s3:PutObject", "s3:GetObject", "sagemaker:InvokeEndpointAsync"} <= calls


async def test_large_inputs_and_results_of_jobs_go_through_s3(
    monkeypatch: pytest.MonkeyPatch, moto_url: str, redis_url: str, model: Neighbour
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_url)
    bucket = f"jobs-{uuid.uuid4().hex[:8]}"
    s3 = boto3.client("s3", region_name="eu-central-1")
    await asyncio.to_thread(
        s3.create_bucket,
        Bucket=bucket,
        CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
    )
    settings: dict[str, Any] = {
        "backends": {"digits": {"type": "http", "url": model.url}},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "jobs": {"bucket": bucket, "inline_bytes": 100},
    }
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        body = orjson.dumps({"instances": [[1.0] * 64]})
        _, job, _ = await ask(proxy, "/v1/jobs/digits", body)

        async def ended() -> Any:
            async with proxy.session.get(f"{proxy.url}/v1/jobs/{job['id']}") as answer:
                found = await answer.json()
                return found if found["state"] in ENDED else None

        found = await eventually(ended)
    assert (found["state"], found["result"]["label"]) == ("succeeded", "7")
    listed = await asyncio.to_thread(s3.list_objects_v2, Bucket=bucket)
    assert {item["Key"].rsplit("/", 1)[1] for item in listed["Contents"]} == {"input", "result"}
