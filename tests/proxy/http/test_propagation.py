"""Headers and query that routes may look at reach the model on every road, and choose the answer.

Found: condition-based routing's own command reached the stable model 20 of 20 times, because the
proxy wrote the request to the model anew and left the caller's headers out.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from kit.http.problem import Problem
from proxy.http.propagation import Carried, carried, choosing, key_of_choice, load
from proxy.jobs.queue import ENDED
from tests.proxy.conftest import Neighbour, Proxy, Seen, eventually, proxy_with, worker_with

ROWS = b'{"instances": [[' + b", ".join([b"0"] * 64) + b"]]}"
INFER = (
    b'{"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": ['
    + b", ".join([b"0"] * 64)
    + b"]}]}"
)
JSON = {"content-type": "application/json"}
BETA = {"X-Group": "beta", "X-Slipway-Fault": "slow"}
PATHS = {
    "/v1/predict/digits": ROWS,
    "/v1/ensembles/both": ROWS,
    "/v1/pipelines/two": ROWS,
    "/v2/models/digits/infer": INFER,
}


def asked(model: Neighbour) -> list[Seen]:
    """The infer requests that reached the model."""
    return [seen for seen in model.seen if "/infer" in seen.path]


@pytest.fixture(params=[False, True], ids=["uncached", "cached"])
async def proxy(model: Neighbour, request: pytest.FixtureRequest) -> AsyncIterator[Proxy]:
    backend: dict[str, Any] = {"type": "http", "url": model.url, "model": "digits"}
    if request.param:
        backend["cache"] = {}
    async with proxy_with(
        backends={"digits": backend, "other": backend},
        ensembles={"both": {"members": [{"model": "digits"}, {"model": "other"}]}},
        pipelines={"two": {"steps": [{"model": "digits"}]}},
    ) as found:
        yield found


async def post(proxy: Proxy, path: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
    async with proxy.session.post(proxy.url + path, data=body, headers=JSON | headers) as answer:
        assert answer.status == 200, await answer.text()
        return {name.lower(): value for name, value in answer.headers.items()}


@pytest.mark.parametrize("path", PATHS)
async def test_headers_and_query_reach_the_model(proxy: Proxy, model: Neighbour, path: str) -> None:
    await post(proxy, path + "?size=big&access_token=secret", PATHS[path], BETA)
    for seen in asked(model):
        assert seen.header("x-group") == "beta"
        assert seen.header("x-slipway-fault") == "slow"
        assert "size=big" in seen.path
    if path.startswith("/v1/"):
        assert "secret" not in asked(model)[0].path


@pytest.mark.parametrize("path", ["/v1/predict/digits", "/v2/models/digits/infer"])
async def test_what_is_no_route_s_business_stays_here(
    proxy: Proxy, model: Neighbour, path: str
) -> None:
    mine = {
        "Authorization": "Bearer mine",
        "Cookie": "mine",
        "X-API-Key": "mine",
        "X-Forwarded-For": "192.0.2.1",
        "X-Slipway-Shadow": "true",
        "X_Group": "mine",
    }
    await post(proxy, path, PATHS[path], mine)
    [seen] = asked(model)
    assert not [pair for pair in seen.headers if pair[1] in ("mine", "Bearer mine")]
    assert seen.header("x-slipway-shadow") is None
    assert seen.header("content-type") in ("application/json", "application/octet-stream")


@pytest.mark.parametrize("path", ["/v1/predict/digits", "/v2/models/digits/infer"])
async def test_a_cached_answer_is_for_those_who_are_routed_alike(
    model: Neighbour, path: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        group = request.headers.get("x-group", "") + request.query.get("size", "")
        row = [0.0] * 10
        row[5 if group else 7] = 1.0
        output = {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": row}
        return web.json_response(
            {"model_name": "digits", "model_version": "1", "outputs": [output]},
            headers={"X-Slipway-Model-Version": "1", "X-Slipway-Variant": group or "stable"},
        )

    model.on("/v2/models/digits/infer", answer)
    backend = {"type": "http", "url": model.url, "cache": {}}
    async with proxy_with(backends={"digits": backend}) as proxy:
        for _ in range(3):
            plain = await post(proxy, path, PATHS[path], {"User-Agent": str(uuid.uuid4())})
            beta = await post(proxy, path, PATHS[path], {"X-Group": "beta"})
            big = await post(proxy, path + "?size=big", PATHS[path], {})
            variants = [one.get("x-slipway-variant") for one in (plain, beta, big)]
            assert variants == ["stable", "beta", "big"]
    assert len(asked(model)) == 3, "everybody's second request is answered from the cache"


async def test_vary_names_the_headers_that_count(model: Neighbour) -> None:
    backend = {"type": "http", "url": model.url, "cache": {"vary": ["X-Group"]}}
    async with proxy_with(backends={"digits": backend}) as proxy:
        for number in range(4):
            headers = {"X-Session": str(number), "X-Group": "beta" if number % 2 else "stable"}
            await post(proxy, "/v1/predict/digits", ROWS, headers)
    assert len(asked(model)) == 2


async def test_a_job_is_routed_like_its_request(model: Neighbour, redis_url: str) -> None:
    other = {"type": "http", "url": model.url, "model": "digits"}
    settings: dict[str, Any] = {
        "backends": {"digits": other, "large": other},
        "rules": [{"model": "digits", "headers": {"X-Size": "large"}, "backend": "large"}],
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
    }
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        sent = JSON | BETA | {"X-Size": "large"}
        path = f"{proxy.url}/v1/jobs/digits?size=big&priority=high"
        async with proxy.session.post(path, data=ROWS, headers=sent) as answer:
            job = await answer.json()

        async def ended() -> Any:
            async with proxy.session.get(f"{proxy.url}/v1/jobs/{job['id']}") as answer:
                found = await answer.json()
                return found if found["state"] in ENDED else None

        found = await eventually(ended)
        assert found["result"]["model"] == "large", found
        too_much = {f"X-Filler-{number}": "x" * 1000 for number in range(9)}
        async with proxy.session.post(path, data=ROWS, headers=JSON | too_much) as answer:
            assert answer.status == 431
            assert "8192 bytes" in (await answer.json())["detail"]
    [seen] = asked(model)
    assert seen.header("x-group") == "beta"
    assert seen.path.endswith("?size=big")


names = st.sampled_from([b"x-group", b"x-size", b"x-a", b"user-agent", b"accept", b"cookie"])
values = st.text('ab=&"\\ü,', max_size=4).map(lambda text: text.encode("latin-1"))
pairs = st.lists(st.tuples(names, values), max_size=5)
queries = st.text("abs=&%+", max_size=8).map(str.encode)


@given(pairs, queries, pairs, queries)
def test_two_choices_have_one_key_only_where_they_are_the_same(
    first: list[tuple[bytes, bytes]],
    first_query: bytes,
    second: list[tuple[bytes, bytes]],
    second_query: bytes,
) -> None:
    one, other = choosing(first, first_query, None), choosing(second, second_query, None)
    assert (key_of_choice(one) == key_of_choice(other)) == (one == other)


@given(pairs, queries)
def test_what_a_job_keeps_is_what_goes_on(sent: list[tuple[bytes, bytes]], query: bytes) -> None:
    given_on = carried(sent, query)
    assert load(given_on.dump(), query) == given_on
    chosen, _ = choosing(sent, query, None)
    assert set(chosen) <= set(given_on.headers), "what is in the key goes on too"


def test_a_job_keeps_no_more_than_it_may() -> None:
    Carried(((b"x", b"y" * 8000),)).dump()
    with pytest.raises(Problem, match="8192 bytes"):
        Carried(((b"x", b"y" * 8190),)).dump()
