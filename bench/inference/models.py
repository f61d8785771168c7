"""The models every server is measured with: the same files for all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the rows that one request holds."""

    name: str
    model: str
    features: int
    rows: int

    def row_body(self) -> bytes:
        """A request in the protocol's JSON, 32-bit floats as a client would print them."""
        generator = np.random.default_rng(7)
        data = generator.random(self.rows * self.features, dtype=np.float32).round(6)
        return json.dumps(
            {
                "inputs": [
                    {
                        "name": "input",
                        "shape": [self.rows, self.features],
                        "datatype": "FP32",
                        "data": [float(f"{value:.6g}") for value in data],
                    }
                ]
            }
        ).encode()

    def nested(self) -> list[list[float]]:
        """The same rows as nested lists, for servers with a JSON of their own."""
        tensor = json.loads(self.row_body())["inputs"][0]["data"]
        return [tensor[at : at + self.features] for at in range(0, len(tensor), self.features)]


CASES = (
    Case("linear-4", "linear4", 4, 1),
    Case("mlp-1", "mlp", 784, 1),
    Case("mlp-64", "mlp", 784, 64),
    Case("slow-10ms", "slow", 64, 1),
)

LAYERS = {
    "linear4": [4, 3],
    "mlp": [784, 128, 10],
    # about 10 ms on one core: nine layers of 2048 x 2048, whose weights do not fit
    # into the caches, so that a batch of rows costs little more than one
    "slow": [64, *[2048] * 10, 10],
}


def build(folder: Path) -> None:
    """Write each model as ``folder/<name>/1/model.onnx``, with a ``model.json`` beside it."""
    for name in LAYERS:
        target = folder / name / "1"
        target.mkdir(parents=True, exist_ok=True)
        (target / "model.onnx").write_bytes(document(name).SerializeToString())
        (target / "model.json").write_text(
            json.dumps({"name": name, "version": "1", "batching": {}}), encoding="utf-8"
        )


def document(name: str) -> onnx.ModelProto:
    """One of the models by name."""
    return _dense(name, LAYERS[name])


def _dense(name: str, sizes: list[int]) -> onnx.ModelProto:
    generator = np.random.default_rng(1)
    nodes, weights, last = [], [], "input"
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        matrix = (generator.standard_normal((fan_in, fan_out)) / fan_in**0.5).astype(np.float32)
        bias = np.zeros(fan_out, np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{number}"),
            numpy_helper.from_array(bias, f"b{number}"),
        ]
        end = number == len(sizes) - 2
        gemm = "scores" if end else f"gemm{number}"
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [gemm]))
        last = f"relu{number}"
        if not end:
            nodes.append(helper.make_node("Relu", [gemm], [last]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", sizes[0]])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", sizes[-1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
