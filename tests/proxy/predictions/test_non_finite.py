"""NaN and infinities in answers are said, at every path of the model server and at the proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from kit.oip.non_finite import count_of, plain
from tests.inference import small_models
from tests.inference.conftest import Running, serving
from tests.proxy.conftest import proxy_with

HEADER = "x-slipway-non-finite"
SPEC = (TensorProto.FLOAT, ["rows", 3])
LOG = small_models.model([helper.make_node("Log", ["x"], ["y"])], {"x": SPEC}, {"y": SPEC})
ROWS = [[-1.0, 0.0, 1.0]]
WRITTEN: dict[str, list[Any]] = {"null": [None, None, 0.0], "string": ["NaN", "-Infinity", 0.0]}


async def ask_all(running: Running) -> list[tuple[str, int, str | None, Any]]:
    """Every path: its name, status, header, and the values."""
    client, found = running.client, []
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROWS[0]}
    form = {"content-type": "application/json"}
    for name, path, document, headers in (
        ("rest", "/v2/models/log/infer", {"inputs": [entry]}, form),
        ("rest, not the short path", "/v2/models/log/infer?a=1", {"inputs": [entry]}, form),
        ("v1", "/v1/models/log:predict", {"instances": ROWS}, form),
        ("sagemaker", "/invocations", {"instances": ROWS}, form),
        ("csv", "/invocations", {"instances": ROWS}, form | {"accept": "text/csv"}),
    ):
        answer = await client.post(path, json=document, headers=headers)
        values: Any = answer.text
        if answer.status_code == 200 and name != "csv":
            body = answer.json()
            values = body["outputs"][0]["data"] if "outputs" in body else body["predictions"][0]
        found.append((name, answer.status_code, answer.headers.get(HEADER), values))
    return found


@pytest.mark.parametrize("policy", ["null", "string", "error"])
async def test_what_json_cannot_say_is_counted_and_written_as_set(
    tmp_path: Path, policy: str
) -> None:
    """Found: null, and nothing said so."""
    small_models.put(tmp_path, "log", "1", LOG)
    async with serving(str(tmp_path), non_finite_outputs=policy) as running:
        for name, status, header, values in await ask_all(running):
            if policy == "error":
                assert (status, header) == (500, None), name
                assert "holds 2 values that are NaN or infinite" in values
                continue
            assert (status, header) == (200, "2"), name
            wanted = {"null": ",,0.0\n", "string": "NaN,-Infinity,0.0\n"}[policy]
            assert values == (wanted if name == "csv" else WRITTEN[policy]), name
        backends = {"log": {"type": "http", "url": running.url}}
        async with (
            proxy_with(backends=backends, non_finite_outputs=policy) as proxy,
            proxy.session.post(f"{proxy.url}/v1/predict/log", json={"instances": ROWS}) as answer,
        ):
            found = await answer.json()
            if policy == "error":
                assert (answer.status, found["type"]) == (
                    502,
                    "urn:slipway:problem:non-finite-output",
                )
            else:
                assert (answer.status, answer.headers[HEADER]) == (200, "2")
                assert (found["outputs"]["y"], found["non_finite"]) == (WRITTEN[policy], 2)


async def test_ensembles_and_pipelines_say_so_too(tmp_path: Path) -> None:
    small_models.put(tmp_path, "log", "1", LOG)
    async with serving(str(tmp_path)) as running:
        backends = {"log": {"type": "http", "url": running.url}}
        several = {
            "ensembles": {"both": {"members": [{"model": "log"}], "merge": "named"}},
            "pipelines": {"one": {"steps": [{"model": "log"}]}},
        }
        async with proxy_with(backends=backends, **several) as proxy:
            for path in ("/v1/ensembles/both", "/v1/pipelines/one"):
                asked = proxy.session.post(f"{proxy.url}{path}", json={"instances": ROWS})
                async with asked as answer:
                    found = await answer.json()
                    assert (answer.status, answer.headers[HEADER]) == (200, "2"), path
                    assert found["non_finite"] == 2


async def test_an_answer_of_numbers_says_nothing_and_binary_ones_need_not(tmp_path: Path) -> None:
    small_models.put(tmp_path, "log", "1", LOG)
    async with serving(str(tmp_path), non_finite_outputs="error") as running:
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 1.0, 1.0]}
        answer = await running.infer("log", entry)
        assert (answer.status_code, HEADER in answer.headers) == (200, False)
        answer = await running.infer(
            "log", entry | {"data": ROWS[0]}, parameters={"binary_data_output": True}
        )
        assert answer.status_code == 200
        raw = answer.content[int(answer.headers["inference-header-content-length"]) :]
        assert np.isnan(np.frombuffer(raw, "<f4")[0])


def test_large_answers_are_counted_too() -> None:
    values = np.zeros(10_000, np.float32)
    values[[5, 77]] = np.inf
    assert count_of(values) == 2
    assert plain(values, "string")[77] == "Infinity"
    assert count_of(np.array(["a"], object)) == count_of(np.array([1])) == 0
    assert plain(np.array(np.nan), "null") is None
