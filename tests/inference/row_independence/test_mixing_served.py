"""The models whose rows meet, asked by 32 callers at the same time: each gets its own answer."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inference.errors import InferenceError
from inference.models.onnx_model import OnnxModel
from kit.oip.tensors import to_json
from tests.inference import small_models
from tests.inference.callers import answers_alike, sent
from tests.inference.conftest import Serve
from tests.inference.row_independence.test_mixing import MIXING, model, start, weights_of

CALLERS = 32
NOT_ASKED = {
    "RandomNormalLike": "its answer is another each time",
    "RandomUniform": "its answer is another each time",
    "Bernoulli": "its answer is another each time",
    "BatchNormalization in training": "ONNX Runtime writes its moments over the weights",
    "a stranger's operator": "ONNX Runtime does not load it",
}


def named(name: str) -> str:
    return f"m{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def rows(caller: int) -> dict[str, np.ndarray]:
    """One to three rows, unlike every other caller's, some of them large."""
    generator = np.random.default_rng(caller)
    scale = 1000 if caller % 5 == 0 else 1
    return {"x": (generator.standard_normal((1 + caller % 3, 4)) * scale).astype(np.float32)}


def with_rows_declared(document: bytes, folder: Path) -> bytes | None:
    """The model with rows as its output's first dimension; None where it gives no such output."""
    path = folder / "any.onnx"
    path.write_bytes(document)
    bare = OnnxModel(path, threads=1)
    ranks = []
    for caller in range(6):
        try:
            ranks.append(bare.run(None, rows(caller))[0].ndim)
        except InferenceError:
            continue
    if not ranks or 0 in ranks:
        return None
    copy = onnx.load_from_string(document)
    kind = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}[bare.outputs[0].datatype]
    shape = ["rows", *[None] * (ranks[0] - 1)]
    copy.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, shape))
    written: bytes = copy.SerializeToString()
    path.write_bytes(written)
    try:
        assert OnnxModel(path, threads=1).has_row_dimension
    except Exception:  # ONNX Runtime knows the size of its output better
        return None
    return written


@pytest.mark.parametrize(
    "callers", [pytest.param(6), pytest.param(CALLERS, marks=pytest.mark.conformance)]
)
async def test_models_whose_rows_meet_answer_many_callers_as_they_answer_one(
    callers: int, serve: Serve, repository: Path, tmp_path: Path
) -> None:
    asked = [name for name in MIXING if name not in NOT_ASKED]
    declared = 0
    for name in asked:
        document = model(start(name), weights_of(name))
        suited = with_rows_declared(document, tmp_path)
        declared += suited is not None
        small_models.put(repository, named(name), "1", suited or document)
    assert declared >= 40, "these would be batched but for the proof"
    async with serve(target_wait_ms=60_000) as running:
        for name in asked:
            served = running.state.registry.get(named(name))
            assert not served.batched, name
            replies = await asyncio.gather(
                *(running.infer(named(name), *sent(rows(caller))) for caller in range(callers))
            )
            for caller, reply in enumerate(replies):
                assert_as_alone(name, served.model, rows(caller), reply)


def assert_as_alone(name: str, alone: OnnxModel, feeds: Any, reply: Any) -> None:
    try:
        (expected,) = alone.run(None, feeds)
    except InferenceError:
        assert reply.status_code in (400, 500), (name, reply.text)
        return
    assert reply.status_code == 200, (name, reply.text)
    (output,) = reply.json()["outputs"]
    assert output["shape"] == list(expected.shape), name
    if expected.dtype.kind == "f":
        got = np.array([np.nan if v is None else v for v in output["data"]], float)
        wanted = np.where(np.isfinite(expected), expected, np.nan).ravel()
        assert np.allclose(got, wanted, rtol=1e-4, atol=1e-4, equal_nan=True), name
    else:
        assert output["data"] == np.asarray(to_json(expected)).ravel().tolist(), name


@pytest.mark.parametrize("name", ["CumSum", "TopK", "ReduceMean", "Softmax"])
async def test_the_same_callers_see_it_where_such_a_model_is_forced(
    name: str, serve: Serve, repository: Path, tmp_path: Path
) -> None:
    """What the tests here compare would be wrong if these models were batched."""
    document = with_rows_declared(model(start(name), weights_of(name)), tmp_path)
    assert document is not None
    forced = {"force": True, "owner": "ops@example.com"}
    small_models.put(repository, "m", "1", document, batching=forced)
    async with serve(target_wait_ms=60_000) as running:
        with pytest.raises(AssertionError, match="y"):
            await answers_alike(running, "m", [rows(caller) for caller in range(CALLERS)])
