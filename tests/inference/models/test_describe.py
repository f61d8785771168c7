"""inference.models.describe: what can be said of an ONNX file, and the server's word."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from inference.errors import ModelError
from inference.models import describe
from inference.repository import manifest
from inference.settings import InferenceSettings
from tests.inference import small_models


def described(source: Path, to: Path, name: str = "iris", version: str = "1") -> dict[str, Any]:
    settings = InferenceSettings(warmup_runs=1)
    return describe.describe(source, to, name=name, version=version, settings=settings)


def written(found: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path(found["folder"]) / "model.json").read_text())
    return document


def test_a_file_becomes_a_version_with_what_can_be_derived(tmp_path: Path) -> None:
    model = small_models.affine(2.0, 1.0)
    (tmp_path / "any name.onnx").write_bytes(model)
    found = described(tmp_path / "any name.onnx", tmp_path / "to")
    document = written(found)
    assert document["sha256"] == hashlib.sha256(model).hexdigest()
    assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert document["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
    assert document["samples"] == [
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]}]}
    ]
    assert found["answer"] == {"y": [1.0, 1.0]}
    assert found["batching"]["enabled"]
    assert any("made up" in one for one in found["warnings"])
    where = (tmp_path / "to/iris/1/model.json").read_bytes()
    assert found["sha256"] == hashlib.sha256(where).hexdigest()
    manifest.parse(where, where="model.json")


def test_what_a_folder_says_stays_and_its_weights_come_along(tmp_path: Path) -> None:
    made = tmp_path / "made"
    model = small_models.with_external_data(made, small_models.affine())
    given = {
        "name": "other", "version": "9", "labels": ["cat", "dog"], "owner": "team-a",
        "samples": [{"inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3, 4]}]}],
    }  # fmt: skip
    (made / "model.onnx").rename(made / "network.onnx")
    (made / "model.json").write_text(json.dumps(given))
    assert model
    document = written(described(made, tmp_path / "to"))
    assert (document["name"], document["version"]) == ("iris", "1")
    assert document["labels"] == ["cat", "dog"]
    assert document["owner"] == "team-a"
    assert document["samples"] == given["samples"]
    assert list(document["data_files"]) == ["model.onnx.data"]


def fails_on_made_up() -> bytes:
    """Takes any number of values in a row, says the file, and multiplies five."""
    return small_models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, ["rows", "values"])},
        {"y": (TensorProto.FLOAT, ["rows", 2])},
        {"w": np.ones((5, 2), np.float32)},
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.onnx": b"no model"}, "ONNX Runtime cannot load the model"),
        ({"a.onnx": b"", "b.onnx": b""}, "this one's are: a.onnx, b.onnx"),
        ({"model.onnx": b"", "old.onnx": b""}, "this one's are: model.onnx, old.onnx"),
        ({}, "this one's are: none"),
        ({"model.onnx": small_models.affine(), "a b": b""}, "plain names"),
        ({"model.onnx": small_models.affine(), "model.json": b"["}, "is not JSON"),
        ({"model.onnx": small_models.affine(), "model.json": b"[]"}, "is no JSON object"),
        ({"model.onnx": small_models.affine(), "model.json": b'{"lables": []}'}, "'labels'"),
        (
            {"model.onnx": small_models.affine(), "model.json": b'{"samples": [{"inputs": []}]}'},
            "'x' is missing",
        ),
        ({"model.onnx": fails_on_made_up()}, "no made-up input is answered"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, data in files.items():
        (source / name).write_bytes(data)
    with pytest.raises(ModelError, match=said):
        described(source, tmp_path / "to")


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="becomes part of a path"):
        described(tmp_path, tmp_path / "to", name=name)


def test_an_input_too_large_for_a_sample_is_left_without_one(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(small_models.identity("FP32", ["rows", 40_000]))
    found = described(tmp_path / "m.onnx", tmp_path / "to")
    assert found["sample"] is None
    assert any("has no sample" in one for one in found["warnings"])


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"sha256": "0" * 64}, f"says sha256 {'0' * 64} of model.onnx, which has "),
        ({"data_files": {"weights.bin": "0" * 64}}, "of weights.bin, which has "),
        ({"data_files": {"absent.bin": "0" * 64}}, "of absent.bin, which is not there"),
    ],
)
def test_a_model_json_of_other_files_is_refused(
    tmp_path: Path, document: dict[str, Any], said: str
) -> None:
    """Found: its sha256 was replaced unread, so that a damaged file was published as the model."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "iris.onnx").write_bytes(small_models.affine(2.0, 1.0))
    (source / "weights.bin").write_bytes(b"weights")
    (source / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=said):
        described(source, tmp_path / "to")


def test_another_name_in_its_model_json_is_said(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "iris.onnx").write_bytes(small_models.affine(2.0, 1.0))
    (source / "model.json").write_text(json.dumps({"name": "digits", "version": "1"}))
    warnings = described(source, tmp_path / "to")["warnings"]
    assert "its model.json says name 'digits', and it is added as 'iris'" in warnings
    assert not any("says version" in one for one in warnings)
