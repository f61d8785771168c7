"""Ensembles and pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from kit.http.problem import Problem
from kit.oip.errors import BadTensorError
from proxy.config.compositions import Step
from proxy.models.metadata import Contract, Tensor
from proxy.predictions.ensembles import connect, merge
from tests.proxy.conftest import METADATA, Handler, Neighbour, Proxy, proxy_with
from tests.waits import SECONDS

ROWS = orjson.dumps({"instances": [[1.0] * 64]})
JSON = {"content-type": "application/json"}


def answering(best: int, share: float = 0.55) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        row = [round((1 - share) / 9, 6)] * 10
        row[best] = share
        output = {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": row}
        return web.json_response({"model_version": "1", "outputs": [output]})

    return answer


async def failing(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "no"}, status=500)


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def _metadata(_: web.Request) -> web.StreamResponse:
    return web.json_response(METADATA)


@pytest.fixture
async def proxy(model: Neighbour) -> AsyncIterator[Proxy]:
    for name, handler in (
        ("a", answering(3)), ("b", answering(3)), ("c", answering(8, 0.9)), ("bad", failing),
        ("slow", slow),
    ):  # fmt: skip
        model.on(f"/v2/models/{name}", _metadata)
        model.on(f"/v2/models/{name}/infer", handler)
    members = {
        "vote": (["a", "b", "c"], "vote"),
        "mean": (["a", "b", "c"], "mean"),
        "named": (["a", "c"], "named"),
    }
    ensembles: dict[str, Any] = {
        name: {"members": [{"model": m} for m in models], "merge": how}
        for name, (models, how) in members.items()
    }
    soft = [
        {"model": "a"},
        {"model": "bad", "required": False},
        {"model": "slow", "required": False},
    ]
    ensembles["soft"] = {"members": soft, "timeout_seconds": 2.0}
    ensembles["hard"] = {"members": [{"model": "a"}, {"model": "bad"}, {"model": "slow"}]}
    ensembles["few"] = {"members": soft, "timeout_seconds": 2.0, "minimum": 2}
    names = ("a", "b", "c", "bad", "slow", "digits")
    async with proxy_with(
        backends={name: {"type": "http", "url": model.url} for name in names},
        ensembles=ensembles,
        pipelines={
            "two": {"steps": [{"model": "digits"}, {"model": "a", "inputs": {"wide": "pixels"}}]},
            "apart": {"steps": [{"model": "digits"}, {"model": "a"}]},
        },
        retry_ratio=0.0,
    ) as found:
        yield found


async def ask(proxy: Proxy, path: str) -> tuple[int, dict[str, Any]]:
    async with proxy.session.post(proxy.url + path, data=ROWS, headers=JSON) as answer:
        return answer.status, await answer.json()


async def test_votes_means_and_names(proxy: Proxy) -> None:
    status, voted = await ask(proxy, "/v1/ensembles/vote")
    assert (status, voted["label"], voted["votes"]) == (200, "3", {"3": 2.0, "8": 1.0})
    _, mean = await ask(proxy, "/v1/ensembles/mean")
    assert mean["label"] == "3"
    assert mean["probability"] == pytest.approx((0.55 + 0.55 + 0.1 / 9) / 3, abs=1e-5)
    _, named = await ask(proxy, "/v1/ensembles/named")
    assert {name: found["label"] for name, found in named["members"].items()} == {
        "a": "3",
        "c": "8",
    }


async def test_soft_members_may_fail_and_are_named(proxy: Proxy) -> None:
    status, found = await ask(proxy, "/v1/ensembles/soft")
    assert (status, found["label"]) == (200, "3")
    assert set(found["failed"]) == {"bad", "slow"}
    assert found["failed"]["slow"]["type"] == "deadline-exceeded"


async def test_a_hard_member_fails_the_ensemble_at_once(proxy: Proxy) -> None:
    status, found = await asyncio.wait_for(ask(proxy, "/v1/ensembles/hard"), SECONDS)
    assert (status, found["member"]) == (502, "bad")


async def test_too_few_answers_are_503(proxy: Proxy) -> None:
    status, found = await ask(proxy, "/v1/ensembles/few")
    assert (status, found["type"]) == (503, "urn:slipway:problem:ensemble-incomplete")


async def test_what_is_not_configured_is_404_with_names(proxy: Proxy) -> None:
    for kind in ("ensemble", "pipeline"):
        status, found = await ask(proxy, f"/v1/{kind}s/none")
        assert (status, found["type"]) == (404, f"urn:slipway:problem:unknown-{kind}")


async def test_a_pipeline_hands_outputs_on_as_inputs(proxy: Proxy, model: Neighbour) -> None:
    async def widen(_: web.Request) -> web.StreamResponse:
        output = {"name": "wide", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
        return web.json_response({"outputs": [output]})

    async def first(_: web.Request) -> web.StreamResponse:
        return web.json_response(METADATA | {"properties": {}})

    model.on("/v2/models/digits", first)
    model.on("/v2/models/digits/infer", widen)
    status, found = await ask(proxy, "/v1/pipelines/two")
    assert (status, found["label"]) == (200, "3"), found
    assert [step["model"] for step in found["steps"]] == ["digits", "a"]
    assert model.seen[-1].path == "/v2/models/a/infer"
    sent = np.frombuffer(model.seen[-1].body[-256:], "<f4")
    assert (sent == 0.5).all()


async def test_steps_that_do_not_fit_are_named(proxy: Proxy) -> None:
    status, found = await ask(proxy, "/v1/pipelines/apart")
    assert (status, found["type"]) == (502, "urn:slipway:problem:steps-disagree")
    assert "step 2" in found["detail"] and "pixels" in found["detail"]


def test_connecting_by_name_by_renaming_and_by_being_alone() -> None:
    contract = Contract("m", "1", (Tensor("x", "FP32", (-1, 2)),), ())
    array = np.ones((3, 2), np.float32)
    for outputs, step in (
        ({"x": array, "y": array[:, :1]}, Step(model="m")),
        ({"z": array, "y": array[:, :1]}, Step(model="m", inputs={"z": "x"})),
        ({"z": array}, Step(model="m")),
    ):
        assert connect(outputs, contract, step).rows == 3
    with pytest.raises(BadTensorError):
        connect({"z": array, "y": array}, contract, Step(model="m"))


WEIGHTS = st.floats(0.1, 10)
MEMBERS = st.dictionaries(
    st.sampled_from("abcde"), st.tuples(st.lists(WEIGHTS, min_size=3, max_size=3), WEIGHTS),
    min_size=1,
)  # fmt: skip


def _answer(scores: list[float]) -> dict[str, Any]:
    shares = {str(n): score / sum(scores) for n, score in enumerate(scores)}
    return {"label": max(shares, key=lambda n: shares[n]), "probabilities": shares}


@given(MEMBERS)
def test_a_mean_is_a_distribution_and_lies_between(members: dict[str, Any]) -> None:
    answers = {name: _answer(scores) for name, (scores, _) in members.items()}
    weights = {name: weight for name, (_, weight) in members.items()}
    found = merge("e", "mean", answers, weights)
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    for label, value in found["probabilities"].items():
        each = [answer["probabilities"][label] for answer in answers.values()]
        assert min(each) - 1e-5 <= value <= max(each) + 1e-5
    voted = merge("e", "vote", answers, weights)
    assert voted["votes"][voted["label"]] == max(voted["votes"].values())


@pytest.mark.parametrize("how", ["mean", "vote"])
@pytest.mark.parametrize("written", [None, "-Infinity", "NaN"])
def test_a_probability_that_is_no_number_is_not_counted_as_0(how: str, written: Any) -> None:
    answers = {"a": {"label": "x", "probabilities": {"x": 1.0, "q": written}}, "b": _answer([1])}
    with pytest.raises(Problem) as refused:
        merge("e", how, answers, {"a": 1.0, "b": 1.0})
    assert (refused.value.status, refused.value.type) == (502, "non-finite-output")
    assert "a gave 'q' no finite probability" in refused.value.detail


def test_members_that_cannot_be_merged_are_502() -> None:
    for how, answers in (
        ("mean", {"a": _answer([1, 2, 3]), "b": {"label": "x", "probabilities": {"x": 1.0}}}),
        ("vote", {"a": {"outputs": {}}}),
    ):
        with pytest.raises(Problem) as refused:
            merge("e", how, answers, {"a": 1.0, "b": 1.0})
        assert refused.value.status == 502
