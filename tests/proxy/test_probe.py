"""X-Slipway-Probe: the verifier's requests count for nobody; from anybody else it is dropped."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kit.http.probe_header import mark
from tests.proxy.conftest import Neighbour, Proxy, proxy_with

KEY = "0123456789abcdef"
BODY = b'{"instances": [[' + b", ".join([b"0"] * 64) + b"]]}"
PATHS = ("/v2/models/digits/infer", "/v1/predict/digits", "/v1/ensembles/alone")
ARMS = [{"name": "stable", "weight": 1}, {"name": "challenger", "weight": 1}]


def settings(model: Neighbour, **backend: Any) -> dict[str, Any]:
    return {
        "backends": {"digits": {"type": "http", "url": model.url, **backend}},
        "ensembles": {"alone": {"members": [{"model": "digits"}]}},
        "arms": ARMS,
    }


async def ask(proxy: Proxy, path: str, probe: str | None) -> dict[str, str]:
    headers = {"content-type": "application/json", "x-user-id": "alice"}
    headers |= {"x-slipway-probe": probe} if probe is not None else {}
    async with proxy.session.post(proxy.url + path, data=BODY, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return {name.lower(): value for name, value in answer.headers.items()}


async def metrics(proxy: Proxy) -> str:
    async with proxy.session.get(f"{proxy.url}/metrics") as answer:
        return await answer.text()


def counted(text: str) -> list[str]:
    """The request metrics of predictions."""
    return [
        line
        for line in text.splitlines()
        if line.startswith("http_server_request_duration_seconds_count") and "POST" in line
    ]


@pytest.mark.parametrize("path", PATHS)
async def test_the_verifier_s_request_is_no_user_s(model: Neighbour, path: str) -> None:
    sent = mark(KEY, time.time())
    async with proxy_with(**settings(model), SLIPWAY_PROBE_KEY=KEY) as proxy:
        answered = await ask(proxy, path, sent)
        text = await metrics(proxy)
    assert "x-slipway-arm" not in answered  # no test of users has it
    assert not counted(text)
    assert "slipway_proxy_probes_total{" in text
    # The model server leaves it out of its log by the same header.
    assert model.seen[-1].header("x-slipway-probe") == sent


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("what", ["a word", "another key", "an old mark"])
async def test_from_anybody_else_it_is_dropped(model: Neighbour, path: str, what: str) -> None:
    marks = {"another key": mark("another", time.time()), "an old mark": mark(KEY, 0.0)}
    sent = marks.get(what, "true")
    async with proxy_with(**settings(model), SLIPWAY_PROBE_KEY=KEY) as proxy:
        answered = await ask(proxy, path, sent)
        text = await metrics(proxy)
    assert answered["x-slipway-arm"] in ("stable", "challenger")
    assert len(counted(text)) == 1
    assert "slipway_proxy_probes_total{" not in text
    assert all(seen.header("x-slipway-probe") is None for seen in model.seen)


async def test_without_a_key_nobody_is_believed(model: Neighbour) -> None:
    async with proxy_with(**settings(model)) as proxy:
        await ask(proxy, PATHS[0], mark("", time.time()))
        assert len(counted(await metrics(proxy))) == 1
    assert model.seen[-1].header("x-slipway-probe") is None


async def test_an_upstream_is_not_given_the_verifier_s_mark(model: Neighbour) -> None:
    upstreams = {"other": {"url": model.url, "methods": ["GET"]}}
    async with (
        proxy_with(upstreams=upstreams, SLIPWAY_PROBE_KEY=KEY) as proxy,
        proxy.session.get(
            f"{proxy.url}/api/other/x", headers={"x-slipway-probe": mark(KEY, time.time())}
        ),
    ):
        pass
    assert model.seen[-1].header("x-slipway-probe") is None


async def test_a_cache_does_not_answer_for_the_model(model: Neighbour) -> None:
    async with proxy_with(**settings(model, cache={}), SLIPWAY_PROBE_KEY=KEY) as proxy:
        for _ in range(3):
            await ask(proxy, PATHS[0], mark(KEY, time.time()))
    assert len([seen for seen in model.seen if seen.path.endswith("/infer")]) == 3
