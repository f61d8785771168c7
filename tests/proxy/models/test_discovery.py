"""Which models there are is learned from the servers: nobody lists them in the settings."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from proxy.models import discovery
from proxy.models.discovery import BadIndexError, names_in
from proxy.settings import ProxySettings
from tests.ports import free_port
from tests.proxy.conftest import (
    METADATA,
    Neighbour,
    Proxy,
    eventually,
    neighbour,
    proxy_with,
    worker_with,
)

INDEX = "/v2/repository/index"


class Has:
    """Has a neighbour answer with an index of these models."""

    def __init__(self, server: Neighbour, *models: str) -> None:
        self.models = list(models)
        self.status = 200
        server.on(INDEX, self.answer)
        for model in models:
            self.serve(server, model)

    def serve(self, server: Neighbour, model: str) -> None:
        async def ready(_: web.Request) -> web.Response:
            return web.Response()

        async def metadata(_: web.Request) -> web.Response:
            return web.json_response(METADATA | {"name": model})

        async def infer(_: web.Request) -> web.Response:
            return web.json_response({"model_name": model, "outputs": []})

        server.on(f"/v2/models/{model}", metadata)
        server.on(f"/v2/models/{model}/ready", ready)
        server.on(f"/v2/models/{model}/infer", infer)

    async def answer(self, _: web.Request) -> web.Response:
        rows = [
            {"name": one, "version": "1", "state": "READY", "reason": ""} for one in self.models
        ]
        return web.json_response(rows, status=self.status)


def of(server: Neighbour, **more: Any) -> dict[str, Any]:
    return {"type": "http", "url": server.url, "models": "discover"} | more


async def infer(proxy: Proxy, model: str) -> tuple[int, dict[str, Any]]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    async with proxy.session.post(f"{proxy.url}/v2/models/{model}/infer", json=body) as answer:
        return answer.status, await answer.json()


def asked(server: Neighbour) -> int:
    return sum(seen.path == INDEX for seen in server.seen)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is unknown is looked up at every request."""
    monkeypatch.setattr(discovery, "FRESH_SECONDS", 0.0)


async def test_the_models_of_a_server_are_served_without_being_listed(model: Neighbour) -> None:
    Has(model, "digits", "iris")
    async with proxy_with(backends={"inference": of(model)}) as proxy:
        assert (await infer(proxy, "iris"))[1]["model_name"] == "iris"
        assert (await infer(proxy, "digits"))[0] == 200
        status, said = await infer(proxy, "inference")
        assert status == 404, "the key names the server, not a model"
        assert said["detail"].endswith("there are: digits, iris")
        async with proxy.session.get(f"{proxy.url}/v1/models") as answer:
            listed = {one["name"]: one["state"] for one in (await answer.json())["models"]}
        assert listed == {"digits": "ready", "iris": "ready"}


@pytest.mark.usefixtures("always")
async def test_a_model_that_appears_later_is_served_and_one_that_went_is_not(
    model: Neighbour,
) -> None:
    has = Has(model, "digits")
    async with proxy_with(backends={"inference": of(model)}, discovery_seconds=600) as proxy:
        assert (await infer(proxy, "iris"))[0] == 404
        has.serve(model, "iris")
        has.models = ["iris"]
        assert (await infer(proxy, "iris"))[0] == 200
        assert (await infer(proxy, "digits"))[0] == 200, "old pods may still have it"
        for _ in range(discovery.FORGOTTEN_AFTER):
            await infer(proxy, "nobody")
        assert (await infer(proxy, "digits"))[0] == 404


async def test_servers_are_asked_again_without_a_request(
    model: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = Has(model, "digits")
    backends = {"inference": of(model)}
    async with proxy_with(backends=backends, discovery_seconds=1.0) as proxy:
        has.serve(model, "iris")
        has.models = ["digits", "iris"]

        async def listed() -> bool:
            async with proxy.session.get(f"{proxy.url}/v1/models") as answer:
                return {one["name"] for one in (await answer.json())["models"]} == set(has.models)

        await eventually(listed)


async def test_many_unknown_names_are_not_many_questions(
    model: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "FRESH_SECONDS", 3600.0)
    Has(model, "digits")
    async with proxy_with(backends={"inference": of(model)}, discovery_seconds=600) as proxy:
        await infer(proxy, "digits")
        for number in range(20):
            assert (await infer(proxy, f"none-{number}"))[0] == 404
    assert asked(model) == 1


@pytest.mark.usefixtures("always")
async def test_a_server_that_is_down_at_the_start_is_503_and_not_404() -> None:
    """Found: a model whose server had not started yet was "there is no model", for good."""
    port = free_port()
    there = {"type": "http", "url": f"http://127.0.0.1:{port}", "models": "discover"}
    async with proxy_with(backends={"inference": there | {"breaker_failures": 1000}}) as proxy:
        status, said = await infer(proxy, "digits")
        assert (status, said["type"]) == (503, "urn:slipway:problem:model-unavailable")
        assert "inference cannot be reached" in said["detail"]
        app = web.Application()

        async def index(_: web.Request) -> web.Response:
            return web.json_response([{"name": "digits"}])

        async def answer(_: web.Request) -> web.Response:
            return web.json_response({"model_name": "digits", "outputs": []})

        app.router.add_post(INDEX, index)
        app.router.add_post("/v2/models/digits/infer", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            assert (await infer(proxy, "digits"))[0] == 200
            assert (await infer(proxy, "iris"))[0] == 404
        finally:
            await runner.cleanup()
        assert (await infer(proxy, "iris"))[0] == 404, "what it had is known"


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("answer", ["{}", "[1]", '[{"id": "digits"}]', "no json", '{"error": "x"}'])
async def test_what_is_no_index_is_said(model: Neighbour, answer: str) -> None:
    async def index(_: web.Request) -> web.Response:
        return web.Response(text=answer)

    model.on(INDEX, index)
    async with proxy_with(backends={"inference": of(model)}) as proxy:
        status, said = await infer(proxy, "digits")
        if answer == "{}":
            assert status == 404
        else:
            assert status == 503
            assert "inference: it answers no repository index" in said["detail"]


async def test_models_of_a_server_share_its_connections_and_breaker(model: Neighbour) -> None:
    Has(model, "digits", "iris")
    async with proxy_with(backends={"inference": of(model)}) as proxy:
        await infer(proxy, "digits")
        await infer(proxy, "iris")
        async with proxy.session.get(f"{proxy.url}/metrics") as answer:
            lines = [one for one in (await answer.text()).splitlines() if "breaker_state{" in one]
    assert len(lines) == 1
    assert 'backend="inference"' in lines[0]


async def test_what_the_settings_name_comes_first(model: Neighbour) -> None:
    Has(model, "digits", "iris")
    async with neighbour() as other:
        Has(other, "digits", "iris")
        backends = {
            "first": of(model),
            "digits": {"type": "http", "url": other.url},
            "second": of(other),
        }
        async with proxy_with(backends=backends) as proxy:
            await infer(proxy, "digits")
            await infer(proxy, "iris")
        paths = [seen.path for seen in other.seen if seen.path != INDEX]
        assert paths == ["/v2/models/digits/infer"]


async def test_a_rule_that_names_nobody_keeps_nothing_from_getting_ready(model: Neighbour) -> None:
    Has(model, "digits")
    rules = [{"model": "digits", "backend": "large", "query": {"size": "large"}}]
    async with proxy_with(backends={"inference": of(model)}, rules=rules) as proxy:

        async def said() -> bool:
            async with proxy.session.get(f"{proxy.url}/readyz") as answer:
                return answer.status == 200 and "'large'" in await answer.text()

        await eventually(said)
        assert (await infer(proxy, "digits"))[0] == 200


async def test_jobs_for_a_model_that_appears_later_are_run(
    model: Neighbour, redis_url: str, always: None
) -> None:
    """The worker that began without the model looks it up, and tries again where it is not there
    yet: while pods are replaced one of the old ones may be asked."""
    has = Has(model, "digits")
    settings = {
        "backends": {"inference": of(model)},
        "redis_url": redis_url,
        "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
        "jobs": {"backoff_seconds": 0.05, "max_attempts": 50},
        "discovery_seconds": 600,
    }
    async with proxy_with(**settings) as proxy, worker_with(**settings):
        url = f"{proxy.url}/v1/jobs/digits"
        async with proxy.session.post(url, json={"instances": [[1.0] * 64]}) as answer:
            assert answer.status == 202, await answer.text()
        has.serve(model, "iris")
        has.models = ["digits", "iris"]
        url = f"{proxy.url}/v1/jobs/iris"
        async with proxy.session.post(url, json={"instances": [[1.0] * 64]}) as answer:
            assert answer.status == 202, await answer.text()
            identity = (await answer.json())["id"]

        async def tried() -> bool:
            return any(seen.path == "/v2/models/iris/infer" for seen in model.seen)

        await eventually(tried)
        assert identity


def test_a_listed_model_is_still_checked_against_the_settings() -> None:
    rules = [{"model": "digits", "backend": "large", "query": {"size": "large"}}]
    with pytest.raises(ValueError, match="'large', which is not in PROXY_BACKENDS"):
        ProxySettings(backends={"digits": {"type": "http", "url": "http://x"}}, rules=rules)  # type: ignore[dict-item, list-item]


def test_a_server_that_is_asked_has_no_model_of_its_own() -> None:
    one = {"type": "http", "url": "http://x", "models": "discover", "model": "digits"}
    with pytest.raises(ValueError, match="keep one"):
        ProxySettings(backends={"a": one})  # type: ignore[dict-item]


@given(st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "x"]), inner),
)))  # fmt: skip
def test_any_answer_is_an_index_or_none(document: bytes) -> None:
    try:
        names = names_in(document)
    except BadIndexError:
        return
    assert names == sorted(set(names))
    assert all("/" not in name and name for name in names)


def test_an_index_of_too_many_models_is_none() -> None:
    rows = [{"name": f"m{number}"} for number in range(discovery.LARGEST_NUMBER + 1)]
    with pytest.raises(BadIndexError, match="1001 models"):
        names_in(json.dumps(rows).encode())
    assert len(names_in(json.dumps(rows[1:]).encode())) == discovery.LARGEST_NUMBER
