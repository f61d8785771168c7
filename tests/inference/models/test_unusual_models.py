"""Models that nobody here made, and what model.json may say of batching and samples."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from inference.errors import ModelError
from inference.models.load import read
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from inference.repository.layout import Found
from inference.settings import InferenceSettings
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor
from tests.inference.protocols.test_grpc_server import Client

STRANGERS = Path(__file__).parents[1] / "strangers"


def stranger(repository: Path, name: str, **manifest: Any) -> Path:
    model = (STRANGERS / f"{name}.onnx").read_bytes()
    return small_models.put(repository, name, "1", model, **manifest)


def loaded(folder: Path, name: str) -> Any:
    return read(folder, Found(name, "1", ""), threads=1, settings=InferenceSettings())


async def test_a_made_up_input_that_fails_says_nothing_of_the_model(
    serve: Serve, repository: Path
) -> None:
    name = "warmup_reshape_fixed_shapes"
    folder = stranger(repository, name)
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    inputs = {"data": data, "shape": np.array([-1, 6], np.int64)}
    wanted = ort.InferenceSession(folder / "model.onnx").run(None, inputs)[0]
    (warning,) = loaded(folder, name).warnings
    assert "made-up rows fail" in warning
    assert "samples" in warning
    async with serve() as running:
        answer = await running.infer(
            name,
            tensor("data", "FP32", [2, 3, 4], data.ravel().tolist()),
            tensor("shape", "INT64", [2], [-1, 6]),
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["shape"] == list(wanted.shape)
        assert answer.json()["outputs"][0]["data"] == wanted.ravel().tolist()


async def test_an_input_of_any_rank_takes_every_shape(serve: Serve, repository: Path) -> None:
    stranger(repository, "unknown_rank")
    async with serve() as running:
        document = (await running.client.get("/v2/models/unknown_rank")).json()
        (spec,) = document["inputs"]
        assert document["properties"]["free_rank"] == [spec["name"]]
        for shape, data in (([2, 3], [1.0, -2, 3, 4, 5, 6]), ([], [7.0]), ([1, 1, 2], [8.0, 9])):
            answer = await running.infer(
                "unknown_rank", tensor(spec["name"], spec["datatype"], shape, data)
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["shape"] == shape


async def test_a_model_without_inputs_is_asked(serve: Serve, repository: Path) -> None:
    folder = stranger(repository, "no_inputs")
    wanted = ort.InferenceSession(folder / "model.onnx").run(None, {})[0]
    async with serve() as running:
        for body in ({"inputs": []}, {}):
            answer = await running.client.post("/v2/models/no_inputs/infer", json=body)
            assert answer.status_code == 200, answer.text
            (output,) = answer.json()["outputs"]
            assert np.array_equal(np.array(output["data"], np.float32), wanted.ravel())
        async with Client(running) as client:
            reply = await client.call("ModelInfer", pb.ModelInferRequest(model_name="no_inputs"))
            assert list(reply.outputs[0].shape) == list(wanted.shape)


def test_text_models_load_with_the_locale_that_the_image_has(tmp_path: Path) -> None:
    """The Dockerfile gives C.UTF-8 the name that ONNX Runtime asks for."""
    dockerfile = (Path(__file__).parents[3] / "Dockerfile").read_text()
    assert "/usr/lib/locale/C.utf8 /usr/lib/locale/en_US.utf8" in dockerfile
    there = Path("/usr/lib/locale/C.utf8")
    if not there.is_dir():
        pytest.skip("this machine has no C.utf8")
    shutil.copytree(there, tmp_path / "en_US.utf8")
    code = (
        "import sys, numpy, onnxruntime as o; s = o.InferenceSession(sys.argv[1]); "
        "print(s.run(None, {'text': numpy.array([['GOOD film']], object)})[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(STRANGERS / "text_tfidf.onnx")],
        env={**os.environ, "LOCPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")


def test_samples_warm_a_model_up_and_must_be_answered(repository: Path) -> None:
    def asked(index: int) -> dict[str, Any]:
        return {"inputs": [tensor("i", "INT64", [1], [index])]}

    good = small_models.put(repository, "picky", "1", small_models.picky(), samples=[asked(4)])
    assert loaded(good, "picky").warnings == []
    bad = small_models.put(
        repository, "picky", "1", small_models.picky(), samples=[asked(1), asked(5)]
    )
    with pytest.raises(ModelError, match=r"samples\[1\]"):
        loaded(bad, "picky")
    wrong = small_models.put(
        repository, "picky", "1", small_models.picky(),
        samples=[{"inputs": [tensor("j", "INT64", [1], [1])]}],
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"samples\[0\]: input 'j' is unknown"):
        loaded(wrong, "picky")
    large = small_models.put(
        repository, "picky", "1", small_models.picky(), samples=[{"id": "x" * 70_000}]
    )
    with pytest.raises(ModelError, match="65536 are allowed"):
        loaded(large, "picky")


def test_batching_is_forced_only_with_the_owners_name(repository: Path) -> None:
    mixing = small_models.row_mixing()
    folder = small_models.put(repository, "m", "1", mixing, batching={"force": True})
    with pytest.raises(ModelError, match="owner"):
        loaded(folder, "m")
    folder = small_models.put(
        repository, "m", "1", mixing, batching={"force": True, "owner": "Kim Minji"}
    )
    forced = loaded(folder, "m")
    assert forced.batching.batching
    assert "Kim Minji" in forced.warnings[0]
    assert "ReduceMean" in forced.warnings[0]
    folder = small_models.put(repository, "m", "1", mixing, batching={"max_batch_size": 8})
    alone = loaded(folder, "m")
    assert not alone.batching.batching
    assert "not batched" in alone.warnings[0]
