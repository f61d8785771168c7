"""What a model's run takes of memory follows from what is asked of it, and is bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import orjson
import pytest
from onnx import TensorProto, helper

from inference.errors import ModelError, RunTooLarge
from inference.models import run_memory
from inference.models.onnx_model import OnnxModel
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor
from tests.inference.protocols.test_grpc_server import Client
from tests.memory import peak
from tests.proxy.processes import running

MEBIBYTE = 1 << 20
LIMIT = 768 * MEBIBYTE
"""The model server's memory limit in values/base."""
FLOATS, WHOLE = TensorProto.FLOAT, TensorProto.INT64
SIZE = {"s": (WHOLE, ["rank"])}


def by_size(operator: str, inputs: list[str], x: Any, rank: int, **attributes: Any) -> bytes:
    """A model of one operator, whose output is as large as its input ``s`` says."""
    nodes = [helper.make_node(operator, inputs, ["y"], **attributes)]
    shape = [f"d{axis}" for axis in range(rank)]
    given = {"x": x} if "x" in inputs else {}
    given["s"] = (WHOLE, [4 if operator == "Resize" else "rank"])
    return small_models.model(nodes, given, {"y": (FLOATS, shape)})


PRODUCT = small_models.model(
    [helper.make_node("MatMul", ["a", "b"], ["y"])],
    {"a": (FLOATS, ["m", "k"]), "b": (FLOATS, ["k", "n"])},
    {"y": (FLOATS, ["m", "n"])},
)
INSIDE = small_models.model(
    [
        helper.make_node("ConstantOfShape", ["s"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["y"], keepdims=0),
    ],
    SIZE,
    {"y": (FLOATS, [])},
)
COUNT = small_models.model(
    [helper.make_node("Range", ["a", "b", "c"], ["y"])],
    {name: (WHOLE, []) for name in "abc"},
    {"y": (WHOLE, ["n"])},
)


def numbers(name: str, *data: int) -> dict[str, Any]:
    return tensor(name, "INT64", [len(data)], list(data))


def floats(name: str, *shape: int) -> dict[str, Any]:
    return tensor(name, "FP32", list(shape), [1.0] * int(np.prod(shape)))


def bounds(start: int, end: int) -> list[dict[str, Any]]:
    return [tensor(name, "INT64", [], [v]) for name, v in zip("abc", (start, end, 1), strict=True)]


PICTURE = (FLOATS, [1, 1, "h", "w"])
MODELS: dict[str, tuple[bytes, list[dict[str, Any]], list[dict[str, Any]]]] = {
    "product": (PRODUCT, [floats("a", 65536, 0), floats("b", 0, 65536)],
                [floats("a", 2, 1), floats("b", 1, 2)]),
    "resize": (by_size("Resize", ["x", "", "", "s"], PICTURE, 4, mode="nearest"),
               [floats("x", 1, 1, 2, 2), numbers("s", 1, 1, 20000, 20000)],
               [floats("x", 1, 1, 2, 2), numbers("s", 1, 1, 4, 4)]),
    "expand": (by_size("Expand", ["x", "s"], (FLOATS, [1]), 2),
               [floats("x", 1), numbers("s", 65536, 65536)],
               [floats("x", 1), numbers("s", 2, 2)]),
    "tile": (by_size("Tile", ["x", "s"], (FLOATS, ["n"]), 1),
             [floats("x", 4), numbers("s", 200_000_000)],
             [floats("x", 4), numbers("s", 2)]),
    "fill": (by_size("ConstantOfShape", ["s"], None, 2),
             [numbers("s", 65536, 65536)], [numbers("s", 2, 2)]),
    "count": (COUNT, bounds(0, 10**9), bounds(0, 4)),
    "inside": (INSIDE, [numbers("s", 65536, 65536)], [numbers("s", 2, 2)]),
}  # fmt: skip
"""A model, inputs of some bytes that ask it for gigabytes, and inputs that ask for little."""


@pytest.mark.timeout(300)
async def test_few_bytes_that_ask_for_gigabytes_are_refused_before_they_are_taken(
    tmp_path: Path,
) -> None:
    """Found: two inputs without bytes made a MatMul take 17 GB, four numbers a Resize 1.6 GB."""
    repository = tmp_path / "models"
    for name, (model, _, _) in MODELS.items():
        small_models.put(repository, name, "1", model)
    settings = {
        "model_repository": str(repository),
        "run_memory_bytes": LIMIT // 4,
        "body_memory_bytes": LIMIT // 6,
        "grpc_enabled": False,
    }
    async with (
        running(tmp_path, "inference", "serve", **settings) as server,
        aiohttp.ClientSession() as session,
    ):

        async def ask(name: str, inputs: list[dict[str, Any]]) -> tuple[int, str]:
            url = f"{server.url}/v2/models/{name}/infer"
            async with session.post(url, data=orjson.dumps({"inputs": inputs})) as answer:
                return answer.status, await answer.text()

        for name, (_, too_much, little) in MODELS.items():
            answers = await asyncio.gather(*(ask(name, too_much) for _ in range(8)))
            for status, said in answers:
                assert status == 400, (name, said[:500])
                assert f"model '{name}' needs more memory" in said, said
                assert "192 MiB (run_memory_bytes)" in said, said
            status, said = await ask(name, little)
            assert status == 200, (name, said[:500])
        # as much as a run may take, and more than an answer may
        status, said = await ask("fill", [numbers("s", 40, MEBIBYTE)])
        assert status == 400, said[:500]
        assert "body_memory_bytes" in said, said
        assert peak(server.process.pid) < LIMIT, peak(server.process.pid) // MEBIBYTE
        async with session.get(f"{server.url}/metrics") as answer:
            metrics = await answer.text()
        assert 'reason="run_memory"' in metrics
        assert 'reason="model_failed"' not in metrics


async def test_the_other_protocols_say_the_same(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "inside", "1", INSIDE)
    async with serve(run_memory_bytes=MEBIBYTE) as server, Client(server) as client:
        asked = pb.ModelInferRequest(
            model_name="inside",
            inputs=[{"name": "s", "datatype": "INT64", "shape": [1],
                     "contents": {"int64_contents": [MEBIBYTE]}}],
        )  # fmt: skip
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.call("ModelInfer", asked)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "1 MiB (run_memory_bytes)" in (refused.value.details() or "")
        rows = {"inputs": {"s": [MEBIBYTE]}}
        answer = await server.client.post("/v1/models/inside:predict", json=rows)
        assert answer.status_code == 400, answer.text
        assert "run_memory_bytes" in answer.json()["error"]


def test_free_memory_in_pieces_is_used(tmp_path: Path) -> None:
    """A run that fits is not refused because the runs before it were of other sizes."""
    folder = small_models.put(tmp_path, "inside", "1", INSIDE)
    model = OnnxModel(folder / "model.onnx", threads=1, run_memory_bytes=8 * MEBIBYTE)
    for _ in range(2):
        for size in (3, 4, 6, 1, 7):
            (found,) = model.run(None, {"s": np.array([size * MEBIBYTE // 4])})
            assert found == 0
        with pytest.raises(RunTooLarge):
            model.run(None, {"s": np.array([9 * MEBIBYTE // 4])})


def test_weights_do_not_count(tmp_path: Path) -> None:
    """The bound holds for a model whose weights take more than it, and lets the model run."""
    width = 1500
    weights = np.ones((width, width), np.float32)
    model = small_models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["z"]),
            helper.make_node("ConstantOfShape", ["s"], ["large"]),
            helper.make_node("ReduceSum", ["large"], ["none"], keepdims=0),
            helper.make_node("Add", ["z", "none"], ["y"]),
        ],
        {"x": (FLOATS, ["n", width])} | SIZE,
        {"y": (FLOATS, ["n", width])},
        {"w": weights},
    )
    folder = small_models.put(tmp_path, "wide", "1", model)
    loaded = OnnxModel(folder / "model.onnx", threads=1, run_memory_bytes=2 * MEBIBYTE)
    x = np.ones((1, width), np.float32)
    (found,) = loaded.run(None, {"x": x, "s": np.array([MEBIBYTE // 4])})
    assert found[0, 0] == width
    with pytest.raises(RunTooLarge):
        loaded.run(None, {"x": x, "s": np.array([12 * MEBIBYTE // 4])})


def test_weights_that_grow_when_they_are_loaded_do_not_count(tmp_path: Path) -> None:
    """Half as large in the file as in memory: the guess by the file's size is too low."""
    table = np.ones((512, 2048), np.float16)
    model = small_models.model(
        [
            helper.make_node("Cast", ["w"], ["wide"], to=FLOATS),
            helper.make_node("Gather", ["wide", "s"], ["y"]),
        ],
        SIZE,
        {"y": (FLOATS, ["rows", 2048])},
        {"w": table},
    )
    folder = small_models.put(tmp_path, "table", "1", model)
    loaded = OnnxModel(folder / "model.onnx", threads=1, run_memory_bytes=MEBIBYTE // 2)
    assert loaded.run(None, {"s": np.array([1, 2])})[0].shape == (2, 2048)
    with pytest.raises(RunTooLarge):
        loaded.run(None, {"s": np.arange(500)})


async def test_batches_are_as_large_as_the_memory_for_runs_allows(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "m", "1", small_models.identity("FP32", ["rows", 65536]))
    async with serve(run_memory_bytes=5 * MEBIBYTE, max_batch_size=64) as server:
        (served,) = server.state.registry.all_serving()
        assert served.batched
        assert served.max_batch_size == 16
        assert "batches are of at most 16 rows" in " ".join(served.warnings)
        answer = await server.infer("m", floats("x", 16, 65536))
        assert answer.status_code == 200, answer.text[:500]


async def test_an_answer_holds_memory_until_it_is_written(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "fill", "1", MODELS["fill"][0])
    async with serve(body_memory_bytes=16 * MEBIBYTE) as server:
        bodies = server.state.engine.bodies
        large = numbers("s", 1, MEBIBYTE)
        for parameters, status in (({}, 400), ({"binary_data_output": True}, 200)):
            answer = await server.infer("fill", large, parameters=parameters)
            assert answer.status_code == status, answer.text[:500]
            assert bodies.free == bodies.total
        bodies.take(8 * MEBIBYTE, "another answer")
        answer = await server.infer("fill", large, parameters={"binary_data_output": True})
        assert answer.status_code == 429, answer.text[:500]
        bodies.give(8 * MEBIBYTE)


def test_the_bound_follows_the_memory_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_memory.run_memory(5) == 5
    monkeypatch.setattr(run_memory, "memory_limit", lambda: LIMIT)
    assert run_memory.run_memory() == LIMIT // 4
    monkeypatch.setattr(run_memory, "memory_limit", lambda: None)
    assert run_memory.run_memory() > 0


def test_a_file_that_is_no_model_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot load the model"):
        OnnxModel(tmp_path / "model.onnx", threads=1)
