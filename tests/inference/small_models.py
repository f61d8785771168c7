"""Small ONNX models, each with one trait that a test is about."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    weights: dict[str, np.ndarray] | None = None,
) -> bytes:
    """A model of these nodes; tensors are given as (ONNX type, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def identity(datatype: str, shape: list[Any] | None = None) -> bytes:
    """``y`` is ``x``, [rows, 2] unless said otherwise."""
    spec = (ONNX_TYPES[datatype], ["rows", 2] if shape is None else shape)
    return model([helper.make_node("Identity", ["x"], ["y"])], {"x": spec}, {"y": spec})


def affine(factor: float = 2.0, offset: float = 1.0) -> bytes:
    """``y = x * factor + offset``, FP32 [rows, 2]."""
    spec = (TensorProto.FLOAT, ["rows", 2])
    return model(
        [
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["y"]),
        ],
        {"x": spec},
        {"y": spec},
        {"factor": np.float32(factor), "offset": np.float32(offset)},
    )


def two_in_two_out() -> bytes:
    """``sum = a + b`` and ``difference = a - b``, FP32 [rows, 2]."""
    spec = (TensorProto.FLOAT, ["rows", 2])
    return model(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        {"a": spec, "b": spec},
        {"sum": spec, "difference": spec},
    )


def weights_beside_rows() -> bytes:
    """``y = x``, FP32 [rows, 2], and two weights that are the same for any rows."""
    rows = (TensorProto.FLOAT, ["rows", 2])
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": rows},
        {"y": rows, "weights": (TensorProto.FLOAT, [2])},
        {"weights": np.array([5, 6], np.float32)},
    )


def places() -> bytes:
    """Where ``x``, FP32 [rows, 2], is not zero: INT64 [2, found], rows and columns."""
    return model(
        [helper.make_node("NonZero", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ["rows", 2])},
        {"y": (TensorProto.INT64, [2, "found"])},
    )


def picky() -> bytes:
    """Looks ``i`` (INT64 [rows]) up in a table of five; other numbers make the run fail."""
    return model(
        [helper.make_node("Gather", ["table", "i"], ["y"], axis=0)],
        {"i": (TensorProto.INT64, ["rows"])},
        {"y": (TensorProto.FLOAT, ["rows"])},
        {"table": np.array([0, 10, 20, 30, 40], np.float32)},
    )


def row_mixing() -> bytes:
    """Subtracts the mean over all rows: a batch would change each answer."""
    spec = (TensorProto.FLOAT, ["rows", 2])
    return model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        {"x": spec},
        {"y": spec},
    )


def slow(layers: int = 80) -> bytes:
    """``y`` FP32 [rows, 4] after many large products: tens of milliseconds a run."""
    size = 1024
    generator = np.random.default_rng(0)
    square = (generator.standard_normal((size, size)) / size**0.5).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "start"], ["h0"])]
    for number in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"h{number}", "square"], [f"g{number}"]),
            helper.make_node("Tanh", [f"g{number}"], [f"h{number + 1}"]),
        ]
    nodes.append(helper.make_node("MatMul", [f"h{layers}", "end"], ["y"]))
    return model(
        nodes,
        {"x": (TensorProto.FLOAT, ["rows", 4])},
        {"y": (TensorProto.FLOAT, ["rows", 4])},
        {
            "start": generator.standard_normal((4, size)).astype(np.float32),
            "square": square,
            "end": generator.standard_normal((size, 4)).astype(np.float32),
        },
    )


def with_external_data(folder: Path, onnx_bytes: bytes, data: str = "model.onnx.data") -> bytes:
    """The same model with its weights in ``folder/data``; its own bytes are given back."""
    loaded = onnx.load_from_string(onnx_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save_model(
        loaded, path, save_as_external_data=True, location=data, size_threshold=0
    )  # fmt: skip
    return path.read_bytes()


def put(repository: Path, name: str, version: str, onnx_bytes: bytes, /, **manifest: Any) -> Path:
    """Lay a version into a repository folder; ``manifest`` adds to its ``model.json``."""
    folder = repository / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(onnx_bytes)
    document = {
        "name": name,
        "version": version,
        "format": "onnx",
        "sha256": hashlib.sha256(onnx_bytes).hexdigest(),
    } | manifest
    (folder / "model.json").write_text(json.dumps(document))
    return folder
