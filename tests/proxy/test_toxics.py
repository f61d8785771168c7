"""Slow, cut, reset, refused and deaf: what networks do to the proxy's other neighbours.

`test_faults.py` has the model servers and Redis, `test_sagemaker.py` SageMaker.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientPayloadError, web

from proxy.config.policies import CallbackPolicy
from proxy.store import s3
from proxy.worker.callback_client import CallbackClient
from tests.ports import free_port
from tests.proxy.conftest import Neighbour, proxy_with
from tests.proxy.faults import Toxic, toxic
from tests.proxy.policy.test_authentication import AUDIENCE, ISSUER, jwks, token
from tests.s3 import serve_s3
from tests.waits import SECONDS

HOW = ["well", "slow", "cut", "reset", "refused", "deaf"]


@asynccontextmanager
async def harmed(url: str, how: str) -> AsyncIterator[str]:
    """The way to ``url``, harmed; yields the URL to ask in its place."""
    async with toxic(url) as between:
        harm(between, how)
        yield f"http://127.0.0.1:{free_port()}" if how == "refused" else between.url


def harm(between: Toxic, how: str, *, after: int = 0) -> None:
    """Make it slow, cut, reset or deaf."""
    between.latency = 0.05 if how == "slow" else 0.0
    between.cut_after = after if how == "cut" else None
    between.reset_after = after if how == "reset" else None
    between.deaf = how == "deaf"


API = {
    "well": (200, ""),
    "slow": (200, ""),
    "cut": (502, "upstream-broken"),
    "reset": (502, "upstream-broken"),
    "refused": (503, "upstream-unreachable"),
    "deaf": (504, "deadline-exceeded"),
}


@pytest.mark.parametrize("how", HOW)
async def test_upstreams_of_api(upstream: Neighbour, how: str) -> None:
    async def answer_small(_: web.Request) -> web.Response:
        return web.json_response({})

    upstream.on("*", answer_small)
    async with (
        harmed(upstream.url, how) as url,
        proxy_with(upstreams={"users": {"url": url}}, retry_ratio=0.0) as proxy,
    ):
        for method in ("GET", "POST"):
            async with proxy.session.request(
                method, f"{proxy.url}/api/users/1", headers={"x-request-timeout": "0.5"}
            ) as answer:
                document = await answer.json()
            status, kind = API[how]
            assert (answer.status, document.get("type", "")) == (
                status,
                kind and f"urn:slipway:problem:{kind}",
            )
        assert await proxy.metric('slipway_proxy_backend_in_flight{backend="api/users"}') == 0


@pytest.mark.parametrize("how", ["cut", "reset"])
async def test_an_upstream_that_ends_in_its_body_never_looks_whole(
    upstream: Neighbour, how: str
) -> None:
    async def answer_large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 500_000)

    upstream.on("*", answer_large)
    async with (
        toxic(upstream.url) as between,
        proxy_with(upstreams={"users": {"url": between.url}}) as proxy,
    ):
        harm(between, how, after=200_000)
        async with proxy.session.get(f"{proxy.url}/api/users/1") as answer:
            with pytest.raises(ClientPayloadError):
                await answer.read()


@pytest.mark.parametrize("how", HOW)
async def test_the_issuer_of_tokens(model: Neighbour, upstream: Neighbour, how: str) -> None:
    """Found: a request waited ten seconds for an issuer, whatever its deadline was."""

    async def publish(_: web.Request) -> web.Response:
        return web.json_response(jwks("rsa"))

    upstream.on("/jwks", publish)
    async with (
        harmed(upstream.url, how) as url,
        proxy_with(
            backends={"digits": {"type": "http", "url": model.url}},
            jwt={"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": f"{url}/jwks"},
            auth_required=True,
        ) as proxy,
        asyncio.timeout(SECONDS),
        proxy.session.post(
            f"{proxy.url}/v2/models/digits/infer",
            data=b"{}",
            headers={"authorization": f"Bearer {token()}", "x-request-timeout": "1"},
        ) as answer,
    ):
        document = await answer.json()
        if how in ("well", "slow"):
            assert answer.status == 200
        else:
            kind = "urn:slipway:problem:issuer-unavailable"
            assert (answer.status, document["type"]) == (503, kind)
            assert answer.headers["Retry-After"]


async def test_a_caller_in_a_hurry_does_not_keep_the_keys_from_the_others(
    model: Neighbour, upstream: Neighbour
) -> None:
    release = asyncio.Event()

    async def publish(_: web.Request) -> web.Response:
        await release.wait()
        return web.json_response(jwks("rsa"))

    upstream.on("/jwks", publish)
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url}},
        jwt={"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": f"{upstream.url}/jwks"},
        auth_required=True,
    ) as proxy:

        async def ask(given: str) -> int:
            async with proxy.session.post(
                f"{proxy.url}/v2/models/digits/infer",
                data=b"{}",
                headers={"authorization": f"Bearer {token()}", "x-request-timeout": given},
            ) as answer:
                return answer.status

        assert await ask("0.05") == 503
        patient = asyncio.create_task(ask("20"))
        release.set()
        assert await patient == 200
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("how", HOW)
async def test_targets_of_callbacks(upstream: Neighbour, how: str) -> None:
    async def hook(_: web.Request) -> web.Response:
        return web.Response()

    upstream.on("/hook", hook)
    async with harmed(upstream.url, how) as url:
        policy = CallbackPolicy(allow=[url], allow_private=True, timeout_seconds=0.5)
        client = CallbackClient(policy, "a secret of some length")
        try:
            told = await client.send(f"{url}/hook", "id", b"{}")
        finally:
            await client.close()
    assert told == ("sent" if how in ("well", "slow") else "failed")


@pytest.mark.parametrize("how", HOW)
async def test_s3_of_large_inputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Neighbour, redis_url: str, how: str
) -> None:
    """Found: S3 that hung kept a submit for four minutes."""
    monkeypatch.setattr(s3, "READ_SECONDS", 0.3)
    with serve_s3(tmp_path, ["kept"]) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        settings: dict[str, Any] = {
            "backends": {"digits": {"type": "http", "url": model.url}},
            "redis_url": redis_url,
            "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
            "jobs": {"bucket": "kept", "inline_bytes": 100},
        }
        async with harmed(store.url, how) as url, proxy_with(**settings) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
            async with (
                asyncio.timeout(20),
                proxy.session.post(
                    f"{proxy.url}/v1/jobs/digits",
                    data=orjson.dumps({"instances": [[1.0] * 64]}),
                    headers={"content-type": "application/json"},
                ) as answer,
            ):
                document = await answer.json()
            if how in ("well", "slow"):
                assert answer.status == 202, document
            else:
                kind = "urn:slipway:problem:blobs-unavailable"
                assert (answer.status, document.get("type")) == (503, kind), document
                assert answer.headers["Retry-After"]
