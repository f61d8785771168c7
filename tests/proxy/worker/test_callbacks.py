"""Callbacks: signed, repeated, and never to where they must not go."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis.asyncio as redis
from aiohttp import web

from kit.http.problem import Problem
from proxy.config.policies import CallbackPolicy
from proxy.jobs.callback_urls import check, is_public
from proxy.jobs.queue import Keys
from proxy.worker import callbacks
from proxy.worker.callback_client import SIGNATURE, CallbackClient, sign
from tests.proxy.conftest import Neighbour, Proxy, eventually, proxy_with, worker_with
from tests.s3 import serve_s3

SECRET = "a secret of some length"
JSON = {"content-type": "application/json"}
ROWS = orjson.dumps({"instances": [[1.0] * 64]})

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::",
    "198.18.0.1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


POLICY = CallbackPolicy(allow=["https://hooks.test/slipway", "http://127.0.0.1", "http://[::1]:80"])

REFUSED = [
    "https://hooks.test/other",
    "https://hooks.test/slipwayx",
    "https://hooks.test/slipway/../other",
    "https://hooks.test/slipway/%2e%2e/other",
    "https://hooks.test.evil.test/slipway",
    "https://hooks.test:444/slipway",
    "http://hooks.test/slipway",
    "https://user:pass@hooks.test/slipway",
    "https://evil.test#https://hooks.test/slipway",
    "https://evil.test\\@hooks.test/slipway",
    "ftp://hooks.test/slipway",
    "//hooks.test/slipway",
    "https:///slipway",
    "https://hooks.test/slipway\nX: y",
    "http://127.0.0.1/x",
    "http://[::1]/x",
    "http://127.0.0.1:99999/x",
    "https://[broken/slipway",
    "x" * 3000,
    "",
]


@pytest.mark.parametrize("url", REFUSED)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(Problem) as refused:
        check(url, POLICY)
    assert (refused.value.status, refused.value.type) == (422, "callback-refused")


@pytest.mark.parametrize("url", ["https://hooks.test/slipway", "https://hooks.test/slipway/a?b=c"])
def test_urls_that_are_allowed(url: str) -> None:
    assert check(url, POLICY) == url


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
def test_addresses_in_disguise(host: str) -> None:
    with pytest.raises(Problem):
        check(f"http://{host}/x", CallbackPolicy(allow=[f"http://{host}"]))


async def test_a_name_that_resolves_inwards_is_refused_when_connecting(
    upstream: Neighbour,
) -> None:
    port = upstream.url.rsplit(":", 1)[1]
    url = f"http://localhost:{port}/hook"
    policy = CallbackPolicy(allow=[f"http://localhost:{port}"])
    assert check(url, policy) == url, "the name alone does not tell"
    client = CallbackClient(policy, SECRET)
    assert await client.send(url, "id", b"{}") == "refused"
    await client.close()
    assert upstream.seen == []


async def test_redirects_are_not_followed(upstream: Neighbour) -> None:
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/secret"})

    upstream.on("/hook", away)
    policy = CallbackPolicy(allow=[upstream.url], allow_private=True)
    client = CallbackClient(policy, SECRET)
    assert await client.send(f"{upstream.url}/hook", "id", b"{}") == "failed"
    await client.close()
    assert [seen.path for seen in upstream.seen] == ["/hook"]


def test_the_signature_covers_time_and_body() -> None:
    given = sign(SECRET, b"{}", now=1700000000)
    assert given.startswith("t=1700000000,v1=")
    mac = hmac.new(SECRET.encode(), b"1700000000.{}", hashlib.sha256).hexdigest()
    assert given.endswith(mac)
    assert sign(SECRET, b"{} ", now=1700000000) != given
    assert sign(SECRET, b"{}", now=1700000001) != given


def settings_of(model: Neighbour, upstream: Neighbour, redis_url: str) -> dict[str, Any]:
    return {
        "backends": {"digits": {"type": "http", "url": model.url}},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "callbacks": {"allow": [upstream.url], "allow_private": True},
        "callback_secret": SECRET,
    }


async def test_a_finished_job_is_told_once_it_can_be(
    model: Neighbour, upstream: Neighbour, redis_url: str
) -> None:
    answers = [500, 200]

    async def hook(_: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0))

    upstream.on("/hook", hook)
    settings = settings_of(model, upstream, redis_url)
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        identity = await submit(proxy, {"callback": f"{upstream.url}/hook"})

        async def told() -> bool:
            return not answers

        await eventually(told)
        await asyncio.sleep(0)
    first, second = upstream.seen
    document = orjson.loads(second.body)
    assert (document["id"], document["state"]) == (identity, "succeeded")
    assert document["result"]["label"] == "7"
    assert first.header("idempotency-key") == second.header("idempotency-key") == identity
    signature = second.header(SIGNATURE) or ""
    stamp = int(signature.split(",")[0][2:])
    assert signature == sign(SECRET, second.body, now=stamp)


@pytest.mark.parametrize("state", ["expired", "failed"])
async def test_a_job_that_ends_before_it_is_begun_is_told_too(
    model: Neighbour, upstream: Neighbour, redis_url: str, state: str
) -> None:
    """Found: who waited for the callback of an expired job, or of dead workers', waited forever."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def hook(request: web.Request) -> web.Response:
        told.put_nowait(await request.json())
        return web.Response()

    upstream.on("/hook", hook)
    settings = settings_of(model, upstream, redis_url)
    query = {"callback": f"{upstream.url}/hook"} | (
        {"seconds": 0.001} if state == "expired" else {}
    )
    async with proxy_with(**settings) as proxy:
        identity = await submit(proxy, query)
        if state == "failed":  # as the last of several workers leaves it that died at it
            async with redis.Redis.from_url(redis_url) as client:
                name = Keys(settings["redis_prefix"]).job(identity)
                await client.hset(name, mapping={"state": "running", "attempts": 3})  # type: ignore[misc]
        async with worker_with(**settings), asyncio.timeout(10):
            document = await told.get()
    assert (document["id"], document["state"]) == (identity, state)


async def test_a_callback_that_fails_for_our_own_sake_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: Neighbour,
    upstream: Neighbour,
    redis_url: str,
) -> None:
    """Found: S3 that did not give a result ended every callback of that worker, unseen."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def hook(request: web.Request) -> web.Response:
        told.put_nowait((await request.json())["id"])
        return web.Response()

    upstream.on("/hook", hook)
    with serve_s3(tmp_path, ["kept"]) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        settings = settings_of(model, upstream, redis_url)
        settings["jobs"] = {"bucket": "kept", "inline_bytes": 100}
        settings["callbacks"] |= {"timeout_seconds": 0.5}  # half of how long one is put off
        hooked = {"callback": f"{upstream.url}/hook"}
        keys = Keys(settings["redis_prefix"])
        async with (
            redis.Redis.from_url(redis_url) as client,
            proxy_with(**settings) as proxy,
            worker_with(**settings),
            asyncio.timeout(30),
        ):
            first = await submit(proxy, hooked)
            assert await told.get() == first
            result = store.folder / "kept" / "jobs" / first / "result"
            aside = result.rename(result.with_name("aside"))
            await client.zadd(keys.callbacks, {first: 0})

            async def put_off() -> bool:
                score = await client.zscore(keys.callbacks, first)
                return bool(score)

            await eventually(put_off)
            second = await submit(proxy, hooked)
            assert await told.get() == second
            aside.rename(result)
            assert await told.get() == first


async def test_a_callback_that_is_never_answered_keeps_no_other_waiting(
    model: Neighbour, upstream: Neighbour, redis_url: str
) -> None:
    """Found: the next callbacks were made when the last of those before was over, 10 s later."""
    asked, told, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        asked.set()
        await over.wait()
        return web.Response()

    async def hook(_: web.Request) -> web.Response:
        told.set()
        return web.Response()

    upstream.on("/silent", silent)
    upstream.on("/hook", hook)
    settings = settings_of(model, upstream, redis_url)
    settings["callbacks"] |= {"timeout_seconds": 300}
    async with (
        proxy_with(**settings) as proxy,
        worker_with(**settings) as probes,
        asyncio.timeout(30),
    ):
        for _ in range(2):
            await submit(proxy, {"callback": f"{upstream.url}/silent"})
        await asked.wait()
        await submit(proxy, {"callback": f"{upstream.url}/hook"})
        await told.wait()
        over.set()

        async def both() -> bool:
            async with proxy.session.get(f"{probes}/metrics") as answer:
                return 'callbacks_total{outcome="sent"} 3' in await answer.text()

        await eventually(both)


async def test_a_host_that_never_answers_has_half_of_the_callbacks(
    monkeypatch: pytest.MonkeyPatch, model: Neighbour, upstream: Neighbour, redis_url: str
) -> None:
    told, over = asyncio.Event(), asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    async def hook(_: web.Request) -> web.Response:
        told.set()
        return web.Response()

    upstream.on("/silent", silent)
    upstream.on("/hook", hook)
    monkeypatch.setattr(callbacks, "MOST_CALLBACKS", 2)
    other = upstream.url.replace("127.0.0.1", "localhost")
    settings = settings_of(model, upstream, redis_url)
    settings["callbacks"] |= {"allow": [upstream.url, other], "timeout_seconds": 300}
    async with proxy_with(**settings) as proxy:
        for _ in range(4):
            await submit(proxy, {"callback": f"{upstream.url}/silent"})
        await submit(proxy, {"callback": f"{other}/hook"})
        async with worker_with(**settings), asyncio.timeout(30):
            await told.wait()
            assert [seen.path for seen in upstream.seen].count("/silent") == 1
            over.set()


async def test_an_answer_to_a_callback_that_never_ends_is_not_read(upstream: Neighbour) -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(bytes(1 << 16))
        finally:
            ended.set()

    endless.streaming = True  # type: ignore[attr-defined]
    upstream.on("/hook", endless)
    policy = CallbackPolicy(allow=[upstream.url], allow_private=True, timeout_seconds=300)
    client = CallbackClient(policy, SECRET)
    async with asyncio.timeout(30):
        assert await client.send(f"{upstream.url}/hook", "id", b"{}") == "sent"
        await ended.wait()
    await client.close()


async def submit(proxy: Proxy, query: dict[str, Any]) -> str:
    async with proxy.session.post(
        f"{proxy.url}/v1/jobs/digits", params=query, data=ROWS, headers=JSON
    ) as answer:
        identity: str = (await answer.json())["id"]
        return identity


async def test_a_callback_that_is_not_allowed_is_refused_at_once(
    model: Neighbour, redis_url: str
) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    async with (
        proxy_with(backends=backends, redis_url=redis_url) as proxy,
        proxy.session.post(
            f"{proxy.url}/v1/jobs/digits?callback=http://169.254.169.254/latest",
            data=ROWS,
            headers=JSON,
        ) as answer,
    ):
        assert answer.status == 422
        assert (await answer.json())["type"] == "urn:slipway:problem:callback-refused"
