"""Callbacks: signed, repeated, and never to where they must not go."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from typing import Any

import orjson
import pytest
from aiohttp import web

from kit.problem import Problem
from proxy import callbacks
from proxy.callbacks import Teller, check, is_public, sign
from proxy.settings import CallbackPolicy
from tests.proxy.conftest import Neighbour, eventually, proxy_with, worker_with

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
    teller = Teller(policy, SECRET)
    assert await teller.tell(url, "id", b"{}") == "refused"
    await teller.close()
    assert upstream.seen == []


async def test_redirects_are_not_followed(upstream: Neighbour) -> None:
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/secret"})

    upstream.on("/hook", away)
    policy = CallbackPolicy(allow=[upstream.url], allow_private=True)
    teller = Teller(policy, SECRET)
    assert await teller.tell(f"{upstream.url}/hook", "id", b"{}") == "failed"
    await teller.close()
    assert [seen.path for seen in upstream.seen] == ["/hook"]


def test_the_signature_covers_time_and_body() -> None:
    given = sign(SECRET, b"{}", now=1700000000)
    assert given.startswith("t=1700000000,v1=")
    mac = hmac.new(SECRET.encode(), b"1700000000.{}", hashlib.sha256).hexdigest()
    assert given.endswith(mac)
    assert sign(SECRET, b"{} ", now=1700000000) != given
    assert sign(SECRET, b"{}", now=1700000001) != given


async def test_a_finished_job_is_told_once_it_can_be(
    model: Neighbour, upstream: Neighbour, redis_url: str
) -> None:
    answers = [500, 200]

    async def hook(_: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0))

    upstream.on("/hook", hook)
    settings: dict[str, Any] = {
        "backends": {"digits": {"type": "http", "url": model.url}},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "callbacks": {"allow": [upstream.url], "allow_private": True},
        "callback_secret": SECRET,
    }
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        async with proxy.session.post(
            f"{proxy.url}/v1/jobs/digits",
            params={"callback": f"{upstream.url}/hook"},
            data=ROWS,
            headers=JSON,
        ) as answer:
            identity = (await answer.json())["id"]

        async def told() -> bool:
            return not answers

        await eventually(told)
        await asyncio.sleep(0)
    first, second = upstream.seen
    document = orjson.loads(second.body)
    assert (document["id"], document["state"]) == (identity, "succeeded")
    assert document["result"]["label"] == "7"
    assert first.header("idempotency-key") == second.header("idempotency-key") == identity
    signature = second.header(callbacks.SIGNATURE) or ""
    stamp = int(signature.split(",")[0][2:])
    assert signature == sign(SECRET, second.body, now=stamp)


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
