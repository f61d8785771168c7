"""Rate limits against a real Redis, and without one."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any, cast

import pytest

from kit.http.problem import Problem
from proxy.config.policies import RateLimit
from proxy.http.request import Request
from proxy.policy.rate_limit import Limits
from proxy.settings import ProxySettings
from proxy.store.redis import Store
from tests.ports import free_port
from tests.proxy.conftest import Neighbour, Proxy, proxy_with, running_redis
from tests.proxy.faults import toxic
from tests.waits import until_async


def settings(model: Neighbour, redis_url: str, **more: Any) -> dict[str, Any]:
    return {
        "backends": {"digits": {"type": "http", "url": model.url}},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        # These count places: on a busy machine Redis may take longer than it has in a cluster,
        # and everybody would be admitted.
    } | more


async def receive() -> Any:
    return {"type": "http.disconnect"}


async def send(message: Any) -> None:
    del message


async def ask(proxy: Proxy, **headers: str) -> Any:
    async with proxy.session.post(
        f"{proxy.url}/v2/models/digits/infer", data=b"{}", headers=headers
    ) as answer:
        await answer.read()
        return answer


async def test_past_the_limit_it_is_429_with_the_time_to_wait(
    model: Neighbour, redis_url: str
) -> None:
    limit = {"requests": 3, "window_seconds": 30}
    async with proxy_with(**settings(model, redis_url, rate_limit=limit)) as proxy:
        answers = [await ask(proxy) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=3;w=30'
    assert answers[0].headers["RateLimit"].startswith('"default";r=2;t=')
    assert 1 <= int(answers[3].headers["Retry-After"]) <= 30
    assert len([seen for seen in model.seen if seen.path.endswith("/infer")]) == 3


async def test_two_pods_together_admit_no_more_than_the_limit(
    model: Neighbour, redis_url: str
) -> None:
    given = settings(model, redis_url, rate_limit={"requests": 120, "window_seconds": 60})
    places = asyncio.Semaphore(20)

    async def ask_one(proxy: Proxy) -> Any:
        async with places:
            return await ask(proxy)

    async with proxy_with(**given) as one, proxy_with(**given) as two:
        answers = await asyncio.gather(*(ask_one((one, two)[n % 2]) for n in range(200)))
    admitted = sum(answer.status == 200 for answer in answers)
    assert 110 <= admitted <= 120


async def test_callers_are_counted_apart(model: Neighbour, redis_url: str) -> None:
    limit = {"requests": 1, "window_seconds": 60}
    async with proxy_with(**settings(model, redis_url, rate_limit=limit)) as proxy:
        first = [await ask(proxy, **{"x-forwarded-for": "1.1.1.1"}) for _ in range(2)]
        second = await ask(proxy, **{"x-forwarded-for": "2.2.2.2"})
    assert [answer.status for answer in first] == [200, 429]
    assert second.status == 200


async def test_the_window_begins_anew(model: Neighbour, redis_url: str) -> None:
    limit = {"requests": 1, "window_seconds": 0.2}
    async with proxy_with(**settings(model, redis_url, rate_limit=limit)) as proxy:
        assert (await ask(proxy)).status == 200

        async def is_let_in() -> bool:
            status = (await ask(proxy)).status
            assert status in (200, 429)
            return status == 200

        await until_async(is_let_in, "the next window")


class OneRequestAtATime:
    """A store whose answers come when the test says so, each with one request of a hundred."""

    configured, prefix = True, "test"

    def __init__(self) -> None:
        self.asked: asyncio.Queue[asyncio.Future[list[int]]] = asyncio.Queue()
        self.used = 0

    async def optional(self, use: str, work: object) -> list[int]:
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        return await answer

    async def answer(self) -> None:
        self.used += 1
        (await self.asked.get()).set_result([1, self.used, 60_000])


class CountedLeases:
    """A store whose Redis grants what is asked for; ``wanted`` are the sizes of the leases."""

    configured, prefix = True, "test"

    def __init__(self) -> None:
        self.wanted: list[int] = []
        self.used = 0

    async def optional(self, use: str, work: Any) -> Any:
        return await work(self)

    async def evalsha(self, digest: str, keys: int, *given: Any) -> list[int]:
        _, want, limit, _ = given
        self.wanted.append(want)
        granted = max(0, min(want, limit - self.used))
        self.used += granted
        return [granted, self.used, 60_000]


def asking(limits: Limits) -> asyncio.Task[None]:
    request = Request({"headers": [], "raw_path": b"/"}, receive, send, time.monotonic())
    return asyncio.create_task(limits.admit(request))


@pytest.mark.parametrize(
    ("requests", "together", "wanted"),
    [
        (49, 1, [1]),  # a fiftieth is less than one
        (100, 1, [2]),
        (100, 7, [7]),  # all that wait are asked for in one round trip
        (500, 7, [10]),
    ],
)
async def test_a_lease_is_a_fiftieth_or_all_that_wait(
    requests: int, together: int, wanted: list[int]
) -> None:
    store = CountedLeases()
    limits = Limits(ProxySettings(rate_limit=RateLimit(requests=requests)), cast(Store, store))
    await asyncio.gather(*(asking(limits) for _ in range(together)))
    assert store.wanted == wanted


async def test_the_last_request_of_a_window_is_admitted_and_the_next_is_not() -> None:
    store = CountedLeases()
    limits = Limits(ProxySettings(rate_limit=RateLimit(requests=3)), cast(Store, store))
    for _ in range(3):
        await asking(limits)
    asked = len(store.wanted)
    with pytest.raises(Problem) as refused:
        await asking(limits)
    assert refused.value.status == 429
    assert len(store.wanted) == asked, "that none are left is known here"


@pytest.mark.timeout(30, method="thread")
async def test_who_comes_between_a_leases_end_and_its_callbacks_does_not_spin() -> None:
    """The loop stood still for ever: the ended lease was awaited again and again at once."""
    store = OneRequestAtATime()
    limits = Limits(ProxySettings(rate_limit=RateLimit(requests=100)), cast(Store, store))
    first = asking(limits)
    await store.answer()  # the lease goes on in the loop's next round, and before these two
    others = [asking(limits), asking(limits)]
    for _ in others:
        await store.answer()
    await asyncio.gather(first, *others)
    assert store.used == 3


@pytest.mark.timeout(30)
async def test_a_redis_slower_than_the_window_is_an_answer_too(
    model: Neighbour, redis_url: str
) -> None:
    """Every answer was older than the window it told of, and Redis was asked again for ever."""
    async with toxic(redis_url.replace("redis://", "http://")) as between:
        limit = {"requests": 3, "window_seconds": 0.1}
        url = between.url.replace("http://", "redis://")
        async with proxy_with(**settings(model, url, rate_limit=limit)) as proxy:
            between.latency = 0.2
            answers = await asyncio.gather(*(ask(proxy) for _ in range(6)))
    assert {answer.status for answer in answers} <= {200, 429}
    assert sum(answer.status == 200 for answer in answers) >= 1


async def test_redis_down_admits_everybody_quickly_and_says_so(
    model: Neighbour, tmp_path: Path
) -> None:
    with running_redis(free_port(), tmp_path) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        limit = {"requests": 1, "window_seconds": 60}
        async with proxy_with(**settings(model, url, rate_limit=limit)) as proxy:
            assert (await ask(proxy)).status == 200
            assert (await ask(proxy)).status == 429
            server.stop()
            assert (await ask(proxy, **{"x-forwarded-for": "9.9.9.9"})).status == 200
            metric = 'slipway_proxy_redis_stepped_aside_total{use="rate-limit"}'
            assert await proxy.metric(metric) >= 1


async def test_a_redis_that_hangs_costs_its_timeout_once(model: Neighbour) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    limit = {"requests": 1, "window_seconds": 60}
    given = settings(model, f"redis://127.0.0.1:{port}/0", rate_limit=limit)
    given |= {"redis_timeout_seconds": 0.05}
    async with silent, proxy_with(**given) as proxy:
        for _ in range(3):
            assert (await ask(proxy)).status == 200
        metric = 'slipway_proxy_redis_stepped_aside_total{use="rate-limit"}'
        assert await proxy.metric(metric) >= 2
