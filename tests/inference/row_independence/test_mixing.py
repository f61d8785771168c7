"""inference.row_independence: models that let rows meet are never batched, however they hide it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.row_independence.analysis import analyze
from inference.row_independence.graph import parse

F, INT, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
W = np.arange(16, dtype=np.float32).reshape(4, 4)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def rnn(gates: int, kind: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """A recurrent network whose first axis, time, is the batch."""
    return (
        [
            node("Unsqueeze", ["x", "one"], ["s"]),
            node(kind, ["s", "w", "r"], ["h"], hidden_size=4),
            node("Squeeze", ["h", "both"], ["y"]),
        ],
        {
            "one": ints(1),
            "both": ints(1, 2),
            "w": np.ones((1, 4 * gates, 4), np.float32),
            "r": np.ones((1, 4 * gates, 4), np.float32),
        },
    )


def once(operator: str, *more: str, **attributes: Any) -> list[Any]:
    return [node(operator, ["x", *more], ["y"], **attributes)]


def less_its(operator: str, *more: str, **attributes: Any) -> list[Any]:
    """What is left of x without something computed over the rows."""
    return [node(operator, ["x", *more], ["m"], **attributes), node("Sub", ["x", "m"], ["y"])]


def scan() -> list[Any]:
    body = helper.make_graph(
        [node("Add", ["s", "p"], ["t"]), node("Identity", ["t"], ["o"])], "b",
        [helper.make_tensor_value_info(n, F, [4]) for n in ("s", "p")],
        [helper.make_tensor_value_info(n, F, [4]) for n in ("t", "o")],
    )  # fmt: skip
    return [node("Scan", ["zeros", "x"], ["last", "y"], body=body, num_scan_inputs=1)]


def loop() -> list[Any]:
    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("CumSum", ["s", "axis0"], ["t"])], "b",
        [helper.make_tensor_value_info("i", INT, []), helper.make_tensor_value_info("c", B, []),
         helper.make_tensor_value_info("s", F, None)],
        [helper.make_tensor_value_info("d", B, []), helper.make_tensor_value_info("t", F, None)],
    )  # fmt: skip
    return [node("Loop", ["two", "yes", "x"], ["y"], body=body)]


def if_() -> list[Any]:
    def branch(factor: str) -> Any:
        out = [helper.make_tensor_value_info("o", F, ["n", 4])]
        return helper.make_graph([node("Mul", ["x", factor], ["o"])], factor, [], out)

    return [
        node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "scalar"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("scalar"), else_branch=branch("v4")),
    ]  # fmt: skip


def shape_of_rows(*rest: Any) -> list[Any]:
    return [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "zero"], ["n"]), *rest]


C: dict[str, np.ndarray] = {
    "axis0": np.array(0, np.int64), "zero": np.array(0, np.int64), "z": ints(0), "one1": ints(1),
    "two": np.array(2, np.int64), "yes": np.array(True), "scalar": np.array(2, np.float32),
    "v4": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32), "w": W,
    "k1": ints(1), "minus": ints(-1), "big": ints(2**31 - 1), "minint": ints(-(2**31)),
    "flat": ints(-1, 4), "four": ints(4, -1), "depth": np.array(4, np.int64),
}  # fmt: skip

MIXING: dict[str, list[Any]] = {
    "CumSum": once("CumSum", "axis0"),
    "CumSum reverse": once("CumSum", "axis0", reverse=1),
    "CumSum of axis -2": [node("Neg", ["axis0"], ["a"]), *once("CumSum", "a")],
    "TopK": [node("TopK", ["x", "k1"], ["v", "i"], axis=0), node("Sub", ["x", "v"], ["y"])],
    "ArgMax": [node("ArgMax", ["x"], ["i"], axis=0), node("Cast", ["i"], ["f"], to=F),
               node("Sub", ["x", "f"], ["y"])],
    "ArgMin": [node("ArgMin", ["x"], ["i"], axis=0), node("Cast", ["i"], ["f"], to=F),
               node("Sub", ["x", "f"], ["y"])],
    "Softmax": once("Softmax", axis=0),
    "LogSoftmax": once("LogSoftmax", axis=-2),
    "Hardmax": once("Hardmax", axis=0),
    **{kind: less_its(kind, axes=[0]) for kind in (
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSumSquare")},
    "ReduceSum": less_its("ReduceSum", "z"),
    "ReduceMean of all": less_its("ReduceMean"),
    "LpNormalization": once("LpNormalization", axis=0),
    "LayerNormalization": once("LayerNormalization", "v4", axis=0),
    "MeanVarianceNormalization": once("MeanVarianceNormalization", axes=[0]),
    "BatchNormalization in training": [node("BatchNormalization", ["x", *["v4"] * 4],
                                            ["y", "m", "v"], training_mode=1)],
    "Dropout in training": [node("Dropout", ["x", "scalar", "yes"], ["y"])],
    "LSTM": rnn(4, "LSTM")[0], "GRU": rnn(3, "GRU")[0], "RNN": rnn(1, "RNN")[0],
    "Concat": [node("Concat", ["x", "x"], ["c"], axis=0), node("Slice", ["c", "one1", "big", "z"],
               ["d"]), node("ReduceMax", ["d"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])],
    "Slice backwards": once("Slice", "minus", "minint", "z", "minus"),
    "Slice of one": [node("Slice", ["x", "z", "k1", "z"], ["s"]), node("Add", ["x", "s"], ["y"])],
    "Gather": less_its("Gather", "z", axis=0),
    "GatherElements": [node("ArgMax", ["x"], ["i"], axis=1),
                       node("GatherElements", ["x", "i"], ["y"], axis=0)],
    "GatherND": [node("ArgMax", ["x"], ["i"], axis=1), node("GatherND", ["x", "i"], ["y"])],
    "ScatterElements": [node("ArgMax", ["x"], ["i"], axis=1),
                        node("ReduceMax", ["x"], ["u"], axes=[1]),
                        node("ScatterElements", ["x", "i", "u"], ["y"], axis=0)],
    "ScatterND": [node("ArgMax", ["x"], ["i"], axis=1),
                  node("ScatterND", ["x", "i", "x"], ["y"])],
    "Split": [node("Split", ["x"], ["a", "b"], axis=0), node("Concat", ["b", "a"], ["y"], axis=0)],
    "Reshape that moves the axis": [node("Reshape", ["x", "four"], ["r"]),
                                    node("Reshape", ["r", "flat"], ["y"])],
    "Reshape of a transpose": [node("Transpose", ["x"], ["t"]),
                               node("Reshape", ["t", "flat"], ["y"])],
    "Transpose": [node("Transpose", ["x"], ["t"]), node("Softmax", ["t"], ["s"], axis=1),
                  node("Transpose", ["s"], ["y"])],
    "Flatten": [node("Flatten", ["x"], ["f"], axis=0), node("Softmax", ["f"], ["s"], axis=1),
                node("Reshape", ["s", "flat"], ["y"])],
    "MatMul of the batch": [node("Transpose", ["x"], ["t"]), node("MatMul", ["x", "t"], ["g"]),
                            node("MatMul", ["g", "x"], ["y"])],
    "Gemm of the batch": [node("Gemm", ["x", "x"], ["g"], transA=1),
                          node("MatMul", ["x", "g"], ["y"])],
    "Einsum": [node("Einsum", ["x", "x"], ["g"], equation="ij,ik->jk"),
               node("MatMul", ["x", "g"], ["y"])],
    "NonZero": [node("NonZero", ["x"], ["i"]), node("Cast", ["i"], ["f"], to=F),
                node("ReduceSum", ["f"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])],
    "Compress": [node("Compress", ["x", "condition"], ["y"], axis=0)],
    "Unique": [node("Unique", ["x"], ["y"], axis=0)],
    "Shape": shape_of_rows(node("Cast", ["n"], ["f"], to=F), node("Mul", ["x", "f"], ["y"])),
    "Size": [node("Size", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=F),
             node("Div", ["x", "f"], ["y"])],
    "Range": shape_of_rows(node("Range", ["zero", "n", "depth"], ["r"]),
                           node("Cast", ["r"], ["f"], to=F),
                           node("ReduceMax", ["f"], ["m"], keepdims=0),
                           node("Add", ["x", "m"], ["y"])),
    "Row numbers": shape_of_rows(node("Unsqueeze", ["n", "z"], ["u"]),
                                 node("ConstantOfShape", ["u"], ["c"]),
                                 node("CumSum", ["c", "axis0"], ["r"]),
                                 node("Unsqueeze", ["r", "one1"], ["v"]),
                                 node("Add", ["x", "v"], ["y"])),
    "Scan": scan(), "Loop": loop(), "If": if_(),
    "RandomNormalLike": [node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])],
    "RandomUniform": [node("RandomUniform", [], ["r"], shape=[1, 4]),
                      node("Add", ["x", "r"], ["y"])],
    "Bernoulli": [node("Sigmoid", ["x"], ["p"]), node("Bernoulli", ["p"], ["y"])],
    "a stranger's operator": [node("Mystery", ["x"], ["y"], domain="com.example")],
    "broadcast with its transpose": [node("ReduceMax", ["x"], ["m"], axes=[1], keepdims=0),
                                     node("Unsqueeze", ["m", "one1"], ["u"]),
                                     node("Add", ["u", "m"], ["p"]),
                                     node("ReduceMax", ["p"], ["q"], axes=[1]),
                                     node("Add", ["x", "q"], ["y"])],
    "Squeeze of the rows": [node("Squeeze", ["x", "z"], ["s"]), node("Identity", ["s"], ["y"])],
    "Squeeze of every 1": [node("Squeeze", ["x"], ["s"]), node("Identity", ["s"], ["y"])],
    "DynamicQuantizeLinear": [node("DynamicQuantizeLinear", ["x"], ["q", "s", "p"]),
                              node("DequantizeLinear", ["q", "s", "p"], ["y"])],
    "QuantizeLinear by rows": [node("ReduceMax", ["x"], ["m"], axes=[1], keepdims=0),
                               node("QuantizeLinear", ["x", "m"], ["q"], axis=0),
                               node("DequantizeLinear", ["q", "scalar"], ["y"])],
    "Expand": shape_of_rows(node("Unsqueeze", ["n", "z"], ["u"]),
                            node("Concat", ["u", "u"], ["uu"], axis=0),
                            node("Expand", ["scalar", "uu"], ["e"]),
                            node("MatMul", ["e", "x"], ["y"])),
    "Tile": [node("Tile", ["x", "twice"], ["t"]), node("Slice", ["t", "k1", "big", "z"], ["y"])],
    "Pad": [node("Pad", ["x", "pads"], ["p"]), node("Slice", ["p", "z", "minus", "z"], ["y"])],
    "Where by a mask of the batch": [node("ReduceMax", ["x"], ["m"], axes=[0]),
                                     node("GreaterOrEqual", ["x", "m"], ["c"]),
                                     node("Where", ["c", "x", "zeros"], ["y"])],
    "Trilu": once("Trilu"),
    "EyeLike": [node("EyeLike", ["x"], ["e"], dtype=F), node("Mul", ["x", "e"], ["y"])],
    "weights as long as a batch": [node("Add", ["x", "w"], ["y"])],
    "MaxPool indices": [node("Unsqueeze", ["x", "one1"], ["u"]),
                        node("MaxPool", ["u"], ["v", "i"], kernel_shape=[1]),
                        node("Squeeze", ["i", "one1"], ["j"]), node("Cast", ["j"], ["y"], to=F)],
    "Sequence": [node("SplitToSequence", ["x"], ["s"], axis=0),
                 node("ConcatFromSequence", ["s"], ["y"], axis=0)],
    "ml Normalizer of a vector": [node("ReduceMax", ["x"], ["m"], axes=[1], keepdims=0),
                                  node("Normalizer", ["m"], ["y"], domain="ai.onnx.ml")],
}  # fmt: skip

WEIGHTS = C | {
    "condition": np.array([True]), "twice": ints(2, 1), "pads": ints(1, 0, 0, 0),
}  # fmt: skip


def weights_of(name: str) -> dict[str, np.ndarray]:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}.get(name)
    return WEIGHTS | (rnn(gates, name)[1] if gates else {})


def start(name: str) -> list[Any]:
    return MIXING[name]


def clipped(name: str) -> list[Any]:
    """The mixing is added only where it is above 10, which small inputs never make it."""
    return [
        *(_renamed(part, {"y": "mixed"}) for part in MIXING[name]),
        node("Sub", ["mixed", "ten"], ["over"]), node("Relu", ["over"], ["shown"]),
        node("Add", ["x", "shown"], ["y"]),
    ]  # fmt: skip


def inside(name: str) -> list[Any]:
    """The mixing is in one branch of an If that a constant decides."""
    out = [helper.make_tensor_value_info("y_inner", F, None)]
    mixing = helper.make_graph(
        [_renamed(part, {"y": "y_inner"}) for part in MIXING[name]], "mixing", [], out
    )
    same = helper.make_graph(
        [node("Identity", ["x"], ["y_other"])], "same", [],
        [helper.make_tensor_value_info("y_other", F, None)],
    )  # fmt: skip
    return [node("If", ["yes"], ["y"], then_branch=mixing, else_branch=same)]


def _renamed(part: Any, names: dict[str, str]) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(part)
    for listed in (copy.input, copy.output):
        listed[:] = [names.get(name, name) for name in listed]
    return copy


def model(nodes: list[Any], weights: dict[str, np.ndarray]) -> bytes:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", F, ["rows", 4])],
        [helper.make_tensor_value_info("y", F, None)],
        [numpy_helper.from_array(v, n) for n, v in {**weights, "ten": np.float32(10)}.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3),
              helper.make_opsetid("com.example", 1)]  # fmt: skip
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


@pytest.mark.parametrize("place", [start, clipped, inside])
@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_lets_rows_meet_is_not_batched(name: str, place: Any) -> None:
    verdict = analyze(parse(model(place(name), weights_of(name))))
    assert not verdict.apart
    assert "is not understood" not in verdict.reason
    assert "node" in verdict.reason or "output" in verdict.reason


def test_there_are_at_least_sixty_such_models() -> None:
    assert len(MIXING) >= 60


APART: dict[str, list[Any]] = {
    "MLP": [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]),
            node("Gemm", ["r", "w", "v4"], ["g"]), node("Softmax", ["g"], ["y"])],
    "Reshape by Shape": shape_of_rows(
        node("Unsqueeze", ["n", "z"], ["u"]), node("Concat", ["u", "pair"], ["s"], axis=0),
        node("Reshape", ["x", "s"], ["r"]), node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["r", "t"], ["m"]), node("Softmax", ["m"], ["a"]),
        node("MatMul", ["a", "r"], ["b"]), node("Concat", ["u", "minus"], ["e"], axis=0),
        node("Reshape", ["b", "e"], ["y"])),
    "heads folded into the rows": [
        node("Reshape", ["x", "heads"], ["h"]), node("LayerNormalization", ["h", "v2"], ["l"]),
        node("Reshape", ["l", "flat"], ["y"])],
    "a token for every row": shape_of_rows(
        node("Unsqueeze", ["n", "z"], ["u"]), node("Concat", ["u", "four1"], ["s"], axis=0),
        node("Expand", ["v4", "s"], ["e"]), node("Concat", ["e", "x"], ["y"], axis=1)),
    "LSTM over columns": [
        node("Transpose", ["x"], ["t"]), node("Unsqueeze", ["t", "deep"], ["s"]),
        node("LSTM", ["s", "lw", "lr"], ["", "h"], hidden_size=4),
        node("Squeeze", ["h", "z"], ["y"])],
    "CNN": [node("Reshape", ["x", "image"], ["p"]), node("Conv", ["p", "kernel"], ["c"]),
            node("GlobalAveragePool", ["c"], ["g"]), node("Flatten", ["g"], ["y"])],
    "Scan over columns": [
        node("Scan", ["x", "x"], ["y", "all"], num_scan_inputs=1, scan_input_axes=[1],
             scan_output_axes=[1], body=helper.make_graph(
                 [node("Unsqueeze", ["p", "one1"], ["q"]), node("Add", ["s", "q"], ["t"]),
                  node("Identity", ["p"], ["o"])], "b",
                 [helper.make_tensor_value_info("s", F, None),
                  helper.make_tensor_value_info("p", F, None)],
                 [helper.make_tensor_value_info("t", F, None),
                  helper.make_tensor_value_info("o", F, None)]))],
}  # fmt: skip

MORE = WEIGHTS | {
    "pair": ints(2, 2), "heads": ints(-1, 2), "v2": np.ones(2, np.float32), "four1": ints(4),
    "deep": ints(2), "lw": np.ones((1, 16, 1), np.float32), "lr": np.ones((1, 16, 4), np.float32),
    "image": ints(-1, 1, 2, 2), "kernel": np.ones((3, 1, 1, 1), np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_a_model_that_keeps_its_rows_apart_is_batched(name: str) -> None:
    verdict = analyze(parse(model(APART[name], MORE)))
    assert verdict.apart, verdict.reason
