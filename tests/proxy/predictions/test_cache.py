"""The prediction cache: right keys, made once, and nothing kept that must not be."""

from __future__ import annotations

import asyncio
import gzip
import re
import uuid
from hashlib import sha256
from time import monotonic
from typing import Any

import orjson
import pytest
import redis.asyncio as redis
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from kit.http.problem import Problem
from kit.http.protocol import MOST_PIPELINED
from proxy.config.backends import CachePolicy
from proxy.models.backend import Answer
from proxy.predictions.cache import Made, Memory, PredictionCache, key_of
from proxy.predictions.infer_cache import keep, question, recall
from proxy.settings import ProxySettings
from proxy.store.redis import Store
from proxy.telemetry.metrics import Metrics
from tests.proxy.conftest import METADATA, Neighbour, Proxy, eventually, proxy_with
from tests.waits import until_async

INFER = "/v2/models/digits/infer"
QUESTION = b'{"inputs":[],"outputs":[]}'
JSON = {"content-type": "application/json"}
ROWS = orjson.dumps({"instances": [[1.0] * 64]})


@pytest.fixture
def settings(model: Neighbour, redis_url: str) -> dict[str, Any]:
    return {
        "backends": {
            "digits": {"type": "http", "url": model.url, "cache": {"ttl_seconds": 60}},
            "plain": {"type": "http", "url": model.url, "model": "digits"},
        },
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "contract_ttl_seconds": 0.05,
    }


async def ask(
    proxy: Proxy, path: str = "/v1/predict/digits", data: bytes = ROWS, **headers: str
) -> tuple[str | None, dict[str, Any]]:
    async with proxy.session.post(proxy.url + path, data=data, headers=JSON | headers) as answer:
        document: dict[str, Any] = await answer.json()
        assert answer.status == 200, document
        return answer.headers.get("X-Cache"), document


def asked(model: Neighbour) -> int:
    return len([seen for seen in model.seen if seen.path.endswith("/infer")])


@pytest.mark.parametrize("memory", [0, 1 << 20])
async def test_the_second_time_is_a_hit_with_its_own_request_id(
    settings: dict[str, Any], model: Neighbour, memory: int
) -> None:
    async with proxy_with(**settings, cache_memory_bytes=memory) as proxy:
        first = await ask(proxy, **{"x-request-id": "one"})
        again = await ask(proxy, **{"x-request-id": "two"})
    assert (first[0], again[0]) == ("miss", "hit")
    assert (first[1].pop("request_id"), again[1].pop("request_id")) == ("one", "two")
    assert first[1] == again[1]
    assert asked(model) == 1


async def test_the_same_input_in_another_form_is_the_same_question(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        await ask(proxy)
        spaced = b' { "instances" : [ [' + b", ".join([b"1"] * 64) + b"] ] } "
        assert (await ask(proxy, data=spaced))[0] == "hit"
        assert (await ask(proxy, data=b",".join([b"1.0"] * 64), **{"content-type": "text/csv"}))[
            0
        ] == "hit"
        other = orjson.dumps({"instances": [[2.0] * 64]})
        assert (await ask(proxy, data=other))[0] == "miss"
    assert asked(model) == 2


async def test_two_pods_share_it(settings: dict[str, Any], model: Neighbour) -> None:
    async with proxy_with(**settings) as one, proxy_with(**settings) as two:
        assert (await ask(one))[0] == "miss"
        assert (await ask(two))[0] == "hit"
    assert asked(model) == 1


async def test_models_without_the_option_are_never_cached(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        for _ in range(2):
            assert (await ask(proxy, "/v1/predict/plain"))[0] is None
    assert asked(model) == 2


async def test_another_version_is_another_question(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        await ask(proxy)

        async def newer(_: web.Request) -> web.Response:
            return web.json_response(METADATA | {"versions": ["1", "2"], "version": "2"})

        model.on("/v2/models/digits", newer)

        async def missed() -> bool:
            return (await ask(proxy))[0] == "miss"

        await eventually(missed)  # answered by the old contract until the new one is read


async def test_a_version_replaced_in_its_place_is_another_question(
    settings: dict[str, Any], model: Neighbour
) -> None:
    """The name of the version stays, what it is does not: the digest in the contract tells."""

    def published(digest: str) -> Any:
        async def metadata(_: web.Request) -> web.Response:
            known = METADATA["properties"] | {"sha256": digest}
            return web.json_response(METADATA | {"properties": known})

        return metadata

    model.on("/v2/models/digits", published("a" * 64))
    questions = (("/v1/predict/digits", ROWS), (INFER, QUESTION))
    async with proxy_with(**settings) as proxy:
        for path, body in questions:
            assert [(await ask(proxy, path, body))[0] for _ in range(3)] == ["miss", "hit", "hit"]
        model.on("/v2/models/digits", published("b" * 64))
        for path, body in questions:

            async def asked_anew(path: str = path, body: bytes = body) -> bool:
                return (await ask(proxy, path, body))[0] == "miss"

            await eventually(asked_anew)
            assert (await ask(proxy, path, body))[0] == "hit"
    assert asked(model) == 4


async def test_an_answer_of_another_version_than_the_key_names_is_not_kept(
    settings: dict[str, Any], model: Neighbour
) -> None:
    first = model.handlers[INFER]

    async def canary(request: web.Request) -> web.StreamResponse:
        answer = await first(request)
        answer.headers["X-Slipway-Model-Version"] = "2"
        return answer

    model.on(INFER, canary)
    async with proxy_with(**settings) as proxy:
        for path, body in (("/v1/predict/digits", ROWS), (INFER, b'{"inputs":[]}')):
            assert [(await ask(proxy, path, body))[0] for _ in range(2)] == ["miss", "miss"]


async def test_no_cache_asks_anew_and_no_store_keeps_nothing(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        assert (await ask(proxy, **{"cache-control": "no-store"}))[0] == "bypass"
        assert (await ask(proxy))[0] == "miss"
        assert (await ask(proxy, **{"cache-control": "No-Cache"}))[0] == "bypass"
        assert (await ask(proxy))[0] == "hit"
    assert asked(model) == 3


async def test_many_that_ask_together_have_it_made_once(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        found = await asyncio.gather(*(ask(proxy) for _ in range(20)))
    assert asked(model) == 1
    assert {document["label"] for _, document in found} == {"7"}


def held(model: Neighbour) -> asyncio.Event:
    """Has the model answer only once the event is set."""
    release = asyncio.Event()
    first = model.handlers[INFER]

    async def wait(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await first(request)

    model.on(INFER, wait)
    return release


async def test_who_waits_for_anothers_answer_keeps_its_own_deadline(
    settings: dict[str, Any], model: Neighbour
) -> None:
    """Found: a follower waited for as long as the one who led had time, whatever it asked for."""
    release = held(model)
    async with proxy_with(**settings) as proxy:
        for path, body in (("/v1/predict/digits", ROWS), (INFER, QUESTION)):
            before = asked(model)
            release.clear()
            leader = asyncio.create_task(ask(proxy, path, body))
            await eventually(lambda before=before: _past(model, before))  # type: ignore[misc]
            async with proxy.session.post(
                proxy.url + path, data=body, headers=JSON | {"x-request-timeout": "0.1"}
            ) as answer:
                assert answer.status == 504
                kind = (await answer.json())["type"]
            assert kind == "urn:slipway:problem:deadline-exceeded"
            assert not leader.done()
            release.set()
            assert (await leader)[0] == "miss"
            assert asked(model) == before + 1


async def _past(model: Neighbour, before: int) -> bool:
    return asked(model) > before


async def test_who_led_may_hang_up_while_others_wait(
    settings: dict[str, Any], model: Neighbour
) -> None:
    release = held(model)
    line = (
        'slipway_proxy_failures_total{http_route="/v2/models/{model}/infer",type="caller-hung-up"}'
    )
    async with proxy_with(**settings) as proxy:
        leader = asyncio.create_task(ask(proxy, INFER, QUESTION))
        await eventually(lambda: _past(model, 0))
        follower = asyncio.create_task(ask(proxy, INFER, QUESTION))

        async def both_wait() -> bool:
            return (
                await proxy.metric('slipway_proxy_cache_total{model="digits",result="miss"}') == 2
            )

        await eventually(both_wait)
        leader.cancel()

        async def gone() -> bool:
            return await proxy.metric(line) == 1

        await eventually(gone)
        release.set()
        assert (await follower)[0] == "miss"
    assert asked(model) == 1


async def test_a_body_nested_too_deep_is_400(settings: dict[str, Any], model: Neighbour) -> None:
    """Found: JSON that could be read and not be written again was a 500."""
    body = b'{"inputs":' + b"[" * 300 + b"]" * 300 + b"}"
    async with proxy_with(**settings) as proxy:
        for path, status in ((INFER, 400), ("/v1/predict/digits", 400)):
            async with proxy.session.post(proxy.url + path, data=body, headers=JSON) as answer:
                document = await answer.json()
            assert (answer.status, document["type"]) == (status, "urn:slipway:problem:bad-input")
    assert asked(model) == 0


async def test_a_refusal_keeps_its_retry_after(settings: dict[str, Any], model: Neighbour) -> None:
    """Found: a cached model's 429 did not say when to come back."""

    async def full(_: web.Request) -> web.Response:
        return web.json_response({"error": "full"}, status=429, headers={"retry-after": "7"})

    model.on(INFER, full)
    async with (
        proxy_with(**settings) as proxy,
        proxy.session.post(proxy.url + INFER, data=QUESTION, headers=JSON) as answer,
    ):
        assert (answer.status, answer.headers.get("Retry-After")) == (429, "7")


async def test_a_compressed_body_passes_by_the_cache(
    settings: dict[str, Any], model: Neighbour
) -> None:
    """Found: a cached model answered 400 to what the same model without a cache takes."""
    body = gzip.compress(QUESTION)
    coded = JSON | {"content-encoding": "gzip"}
    async with proxy_with(**settings) as proxy:
        await known_by_its_bytes(proxy)
        # The very bytes that are known, said to be compressed: not the same question.
        for sent in (body, QUESTION):
            async with proxy.session.post(proxy.url + INFER, data=sent, headers=coded) as answer:
                await answer.read()
            assert answer.headers.get("X-Cache") == "bypass"
        metric = 'slipway_proxy_cache_total{model="digits",result="bypass"}'
        assert await proxy.metric(metric) == 2
    assert asked(model) == 2, "the model itself refuses what is no gzip"
    assert model.seen[-1].header("content-encoding") == "gzip"


async def test_failures_are_not_kept(settings: dict[str, Any], model: Neighbour) -> None:
    first = model.handlers[INFER]

    async def fail(_: web.Request) -> web.Response:
        return web.json_response({"error": "no"}, status=500)

    model.on(INFER, fail)
    async with proxy_with(**settings) as proxy:
        async with proxy.session.post(
            f"{proxy.url}/v1/predict/digits", data=ROWS, headers=JSON
        ) as answer:
            assert answer.status == 502
        async with proxy.session.post(proxy.url + INFER, data=b"{}", headers=JSON) as answer:
            assert answer.status == 500
        model.on(INFER, first)
        assert (await ask(proxy))[0] == "miss"
        assert (await ask(proxy, INFER, b"{}"))[0] == "miss"


async def test_the_protocol_is_cached_too_each_with_its_own_id(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        one = await ask(proxy, INFER, b'{"id":"a","inputs":[],"outputs":[]}')
        two = await ask(proxy, INFER, b'{"outputs":[],  "inputs":[], "id":"b"}')
        none = await ask(proxy, INFER, b'{"inputs":[],"outputs":[]}')
    assert [one[0], two[0], none[0]] == ["miss", "hit", "hit"]
    assert [one[1]["id"], two[1]["id"], none[1].get("id")] == ["a", "b", None]
    assert asked(model) == 1


@pytest.mark.parametrize("identity", [b"5", b'["a"]', b'"' + b"a" * 1025 + b'"'])
async def test_an_id_that_the_model_refuses_is_refused_of_a_kept_answer_too(
    settings: dict[str, Any], model: Neighbour, identity: bytes
) -> None:
    async with proxy_with(**settings) as proxy:
        assert (await ask(proxy, INFER, b'{"inputs":[],"outputs":[]}'))[0] == "miss"
        body = b'{"id":' + identity + b',"inputs":[],"outputs":[]}'
        asking = proxy.session.post(proxy.url + INFER, data=body, headers=JSON)
        async with asking as answer:
            assert answer.status == 400
            assert "id must be text of at most 1024" in (await answer.json())["detail"]


async def test_a_second_cache_control_is_read_too(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        for _ in range(2):
            both = [*JSON.items(), ("cache-control", "max-age=60"), ("cache-control", "no-store")]
            asking = proxy.session.post(
                proxy.url + INFER, data=b'{"inputs":[]}', headers=CIMultiDict(both)
            )
            async with asking as answer:
                assert answer.headers["x-cache"] == "bypass"
    assert asked(model) == 2


async def test_the_same_bytes_are_known_without_being_read_and_never_outlive_their_version(
    settings: dict[str, Any], model: Neighbour
) -> None:
    body = b'{"id":"a","inputs":[],"outputs":[]}'
    async with proxy_with(**settings) as proxy:
        found = [await ask(proxy, INFER, body) for _ in range(4)]
        assert [state for state, _ in found] == ["miss", "hit", "hit", "hit"]
        assert {document["id"] for _, document in found} == {"a"}
        assert (await ask(proxy, INFER, body, **{"cache-control": "no-cache"}))[0] == "bypass"
        hits = 'slipway_proxy_cache_total{model="digits",result="hit"}'
        assert await proxy.metric(hits) == 3

        async def newer(_: web.Request) -> web.Response:
            return web.json_response(METADATA | {"versions": ["1", "2"], "version": "2"})

        model.on("/v2/models/digits", newer)

        async def missed() -> bool:
            return (await ask(proxy, INFER, body))[0] == "miss"

        await eventually(missed)


async def test_without_redis_the_pods_own_memory_still_answers(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings | {"redis_url": "redis://127.0.0.1:1/0"}) as proxy:
        assert [(await ask(proxy))[0] for _ in range(2)] == ["miss", "hit"]
        assert await proxy.metric('slipway_proxy_redis_stepped_aside_total{use="cache"}') >= 1


async def known_by_its_bytes(proxy: Proxy, **headers: str) -> None:
    """Ask until the answer comes from memory, before a task is made for the request."""
    found = [await ask(proxy, INFER, QUESTION, **headers) for _ in range(3)]
    assert [state for state, _ in found] == ["miss", "hit", "hit"]


async def test_an_answer_from_memory_asks_for_credential_scope_and_place(
    settings: dict[str, Any],
) -> None:
    keys = {
        "all": {"sha256": sha256(b"all").hexdigest(), "scopes": ["*"]},
        "none": {"sha256": sha256(b"none").hexdigest(), "scopes": ["predict:other"]},
        "few": {
            "sha256": sha256(b"few").hexdigest(),
            "rate_limit": {"requests": 2, "window_seconds": 60},
        },
    }
    async with proxy_with(**settings, api_keys=keys, auth_required=True) as proxy:
        await known_by_its_bytes(proxy, **{"x-api-key": "all"})

        async def status(**headers: str) -> tuple[int, str | None, str | None]:
            async with proxy.session.post(
                proxy.url + INFER, data=QUESTION, headers=JSON | headers
            ) as answer:
                await answer.read()
                return answer.status, answer.headers.get("x-cache"), answer.headers.get("ratelimit")

        assert (await status())[0] == 401
        assert (await status(**{"x-api-key": "wrong"}))[0] == 401
        assert (await status(**{"x-api-key": "none"}))[0] == 403
        assert (await status(**{"x-api-key": "all", "x-request-timeout": "soon"}))[0] == 400
        few = [await status(**{"x-api-key": "few"}) for _ in range(3)]
        assert [each[:2] for each in few] == [(200, "hit"), (200, "hit"), (429, None)]
        remaining = [(each[2] or "").split(";t=")[0] for each in few]
        assert remaining == ['"default";r=1', '"default";r=0', '"default";r=0']


async def test_an_answer_from_memory_is_identified_and_counted(settings: dict[str, Any]) -> None:
    async with proxy_with(**settings) as proxy:
        await known_by_its_bytes(proxy)
        async with proxy.session.post(
            proxy.url + INFER, data=QUESTION, headers=JSON | {"x-request-id": "mine"}
        ) as answer:
            assert answer.headers["x-request-id"] == "mine"
            assert float(answer.headers["x-slipway-overhead-ms"]) > 0
            assert answer.headers["x-slipway-variant"] == "inference"
        labels = (
            'http_request_method="POST",http_response_status_code="200",'
            'http_route="/v2/models/{model}/infer",model="digits",variant="inference"'
        )
        assert await proxy.metric(f"http_server_request_duration_seconds_count{{{labels}}}") == 4
        hits = 'slipway_proxy_cache_total{model="digits",result="hit"}'
        assert await proxy.metric(hits) == 3


async def test_a_refreshed_answer_replaces_the_one_known_by_its_bytes(
    settings: dict[str, Any], model: Neighbour
) -> None:
    async with proxy_with(**settings) as proxy:
        await known_by_its_bytes(proxy)

        async def newer(_: web.Request) -> web.Response:
            return web.json_response({"outputs": ["new"]}, headers={"X-Slipway-Model-Version": "1"})

        model.on(INFER, newer)
        assert (await ask(proxy, INFER, QUESTION, **{"cache-control": "no-cache"}))[0] == "bypass"
        found = [await ask(proxy, INFER, QUESTION) for _ in range(3)]
    assert [(state, document["outputs"]) for state, document in found] == [("hit", ["new"])] * 3


async def test_memory_forgets_when_redis_does(settings: dict[str, Any], redis_url: str) -> None:
    async with proxy_with(**settings) as first, proxy_with(**settings) as second:
        await ask(first, INFER, QUESTION)
        client = redis.Redis.from_url(redis_url)
        (name,) = await client.keys(f"{settings['redis_prefix']}:cache:*")
        await client.pexpire(name, 300)
        assert [(await ask(second, INFER, QUESTION))[0] for _ in range(2)] == ["hit", "hit"]

        async def gone() -> bool:
            return not await client.exists(name)

        await eventually(gone)
        await client.aclose()
        assert (await ask(second, INFER, QUESTION))[0] == "miss"


async def test_a_row_of_pipelined_hits_is_answered_in_order(settings: dict[str, Any]) -> None:
    """Answered out of each other's answers they went as many calls deep as there were."""
    count = MOST_PIPELINED + 1
    async with proxy_with(**settings) as proxy:
        await known_by_its_bytes(proxy)
        parts = URL(proxy.url)
        reader, writer = await asyncio.open_connection(parts.host, parts.port)
        for number in range(count):
            last = number == count - 1
            writer.write(
                b"POST %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\nContent-Length: %d\r\n%b\r\n%b"
                % (
                    INFER.encode(),
                    number,
                    len(QUESTION),
                    b"Connection: close\r\n" if last else b"",
                    QUESTION,
                )
            )
        got = await asyncio.wait_for(reader.read(-1), 30)
        writer.close()
    assert got.count(b"HTTP/1.1 200 OK") == count
    found = re.findall(rb"x-request-id: (\d+)", got)
    assert found == [b"%d" % number for number in range(count)]


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_keys_are_equal_only_for_equal_parts(one: list[bytes], two: list[bytes]) -> None:
    assert (key_of(*one) == key_of(*two)) == (one == two)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.binary(max_size=40)), max_size=40))
def test_memory_never_holds_more_than_it_may(puts: list[tuple[str, bytes]]) -> None:
    memory: Memory[bytes] = Memory(64)
    latest = {}
    for key, data in puts:
        memory.put(key, data, 10.0, len(data))
        latest[key] = data
        held = {k: memory.get(k, 0.0) for k in "abcd"}
        assert sum(len(found) for found in held.values() if found is not None) <= 64
        assert all(found in (None, latest.get(k)) for k, found in held.items())
    assert all(memory.get(k, 10.0) is None for k in "abcd")


def test_the_least_recently_used_entry_makes_room() -> None:
    memory: Memory[str] = Memory(20)
    memory.put("a", "first", 10.0, 10)
    memory.put("b", "second", 10.0, 10)
    assert memory.get("a", 0.0) == "first"
    memory.put("c", "third", 10.0, 1)
    assert [memory.get(key, 0.0) for key in "abc"] == ["first", None, "third"]


def test_an_entry_of_just_the_size_is_kept_and_ends_at_its_time() -> None:
    memory: Memory[str] = Memory(20)
    memory.put("a", "kept", 10.0, 20)
    assert (memory.get("a", 9.99), memory.get("a", 10.0)) == ("kept", None)
    memory.put("b", "too large", 10.0, 21)
    assert memory.get("b", 0.0) is None


def alone() -> PredictionCache:
    """A cache without Redis: what it keeps is in its own memory."""
    metrics = Metrics()
    return PredictionCache(Store(ProxySettings(), metrics), metrics, 1 << 20)


@pytest.mark.parametrize(("size", "second"), [(8, "hit"), (9, "miss")])
async def test_an_answer_of_just_max_bytes_is_kept(size: int, second: str) -> None:
    cache, policy = alone(), CachePolicy(max_bytes=8)

    async def make() -> Made:
        return Made(bytes(size))

    deadline = monotonic() + 30
    results = [await cache.answer("m", policy, "key", make, deadline=deadline) for _ in range(2)]
    assert results == [(bytes(size), "miss"), (bytes(size), second)]


async def both(
    problem: Problem, follower_seconds: float = 30.0
) -> tuple[list[bytes], list[tuple[bytes, str] | BaseException]]:
    """One who asks and fails with the problem, one who waits for it: what was made, what came."""
    cache, policy = alone(), CachePolicy()
    made: list[bytes] = []
    release = asyncio.Event()

    async def leader() -> Made:
        await release.wait()
        raise problem

    async def follower() -> Made:
        made.append(b"own")
        return Made(b"own")

    now = monotonic()
    first = asyncio.create_task(cache.answer("m", policy, "key", leader, deadline=now + 30))
    await asyncio.sleep(0)
    second = asyncio.create_task(
        cache.answer("m", policy, "key", follower, deadline=now + follower_seconds)
    )

    async def both_wait() -> bool:
        return cache._computations["key"].waiting == 2

    await until_async(both_wait, "the follower to wait")
    if follower_seconds < 1:
        await asyncio.wait([second])
    release.set()
    results = await asyncio.gather(first, second, return_exceptions=True)
    return made, list(results)


async def test_who_waited_for_one_with_less_time_asks_itself() -> None:
    made, (first, second) = await both(Problem(504, "deadline-exceeded", "late"))
    assert isinstance(first, Problem) and first.status == 504
    assert second == (b"own", "miss")
    assert made == [b"own"]


async def test_who_waited_for_one_that_failed_has_its_problem() -> None:
    made, results = await both(Problem(503, "model-unavailable", "gone"))
    assert [getattr(one, "status", None) for one in results] == [503, 503]
    assert made == []


async def test_who_waits_has_its_own_deadline_and_does_not_ask_past_it() -> None:
    made, (_, second) = await both(Problem(503, "x", "y"), follower_seconds=0.01)
    assert isinstance(second, Problem) and second.status == 504
    assert made == []


@given(st.text(max_size=20), st.binary(max_size=40), st.booleans())
def test_an_answer_comes_back_with_the_askers_id(identity: str, tail: bytes, binary: bool) -> None:
    document = orjson.dumps({"id": "the first one's", "outputs": [1]})
    headers = {"content-type": "x", "date": "dropped"}
    if binary:
        headers["inference-header-content-length"] = str(len(document))
    else:
        tail = b""
    status, found, body = recall(keep(Answer(200, headers, document + tail)), identity)
    split = int(found.get("inference-header-content-length", len(body)))
    assert status == 200 and "date" not in found
    assert orjson.loads(body[:split]) == {"id": identity, "outputs": [1]}
    assert body[split:] == tail


def test_binary_tensors_are_part_of_the_question() -> None:
    head = b'{"id":"x"}'
    assert (
        question(head + b"\x01", len(head)).canonical
        != question(head + b"\x02", len(head)).canonical
    )
