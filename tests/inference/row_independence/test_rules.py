"""inference.row_independence.rules: the same operator with rows apart, and with rows that meet."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from inference.row_independence import analysis, probe
from inference.row_independence.graph import parse
from inference.row_independence.protobuf import GraphError

F, INT, U8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
node = helper.make_node


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


WEIGHTS: dict[str, np.ndarray] = {
    "f4": np.ones(4, np.float32), "f1": np.ones(1, np.float32), "one": np.float32(1),
    "u1": np.uint8(1), "u4": np.ones(4, np.uint8), "w8": np.ones((4, 4), np.uint8),
    "c4": np.ones((4, 4, 1, 1), np.float32), "q4": np.ones((4, 4, 1, 1), np.uint8),
    "row": ints(0), "col": ints(1), "last": ints(2), "zero": np.int64(0), "flat": ints(-1),
    "classes": ints(5, 6, 7, 8), "table": np.ones((3, 4), np.float32), "two": ints(2),
    "mask": np.ones((3, 1), bool), "pair": ints(1, 1), "sc2": np.ones(2, np.float32),
    "half": np.array([0.5], np.float32), "w": np.ones((4, 4), np.float32),
    "grid": np.zeros((1, 2, 2, 2), np.float32), "twosome": np.ones((2, 4), np.float32),
}  # fmt: skip


def verdict(nodes: list[Any], inputs: dict[str, Any], functions: Any = ()) -> analysis.Verdict:
    shapes = {name: value if isinstance(value, tuple) else (F, value)
              for name, value in inputs.items()}  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in shapes.items()],
        [helper.make_tensor_value_info("y", F, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in WEIGHTS.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid(*pair) for pair in
              (("", 18), ("ai.onnx.ml", 3), ("com.microsoft", 1), ("own", 1))]  # fmt: skip
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    return analysis.analyze(parse(model.SerializeToString()))


N4, PICTURE = ["N", 4], ["N", 4, 6, 6]
TURNED = node("Transpose", ["x"], ["t"], perm=[1, 0])
COUNT = [node("Shape", ["x"], ["s"], end=1)]

APART: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "MatMulInteger": ([node("MatMulInteger", ["x", "w8", "u1", "u4"], ["y"])], {"x": (U8, N4)}),
    "QLinearMatMul": ([node("QLinearMatMul", ["x", "one", "u1", "w8", "f4", "u4", "one", "u1"],
                            ["y"])], {"x": (U8, N4)}),
    "QLinearConv": ([node("QLinearConv", ["x", "one", "u1", "q4", "one", "u1", "one", "u1"],
                          ["y"])], {"x": (U8, PICTURE)}),
    "DynamicQuantizeLinear of weights": (
        [node("DynamicQuantizeLinear", ["w"], ["q", "qs", "qz"]),
         node("DequantizeLinear", ["q", "qs", "qz"], ["d"]), node("MatMul", ["x", "d"], ["y"])],
        {"x": N4}),
    "GroupNormalization": ([node("GroupNormalization", ["x", "sc2", "sc2"], ["y"], num_groups=2)],
                           {"x": PICTURE}),
    "GridSample": ([node("GridSample", ["x", "g"], ["y"])], {"x": PICTURE, "g": ["N", 2, 2, 2]}),
    "SkipLayerNormalization": (
        [node("SkipLayerNormalization", ["x", "r", "f4"], ["y"], domain="com.microsoft")],
        {"x": ["N", 3, 4], "r": ["N", 3, 4]}),
    "FusedMatMul": ([node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")], {"x": N4}),
    "QuickGelu": ([node("QuickGelu", ["x"], ["y"], domain="com.microsoft")], {"x": N4}),
    "BiasGelu": ([node("BiasGelu", ["x", "f4"], ["y"], domain="com.microsoft")], {"x": N4}),
    "Squeeze of another axis": ([node("Squeeze", ["x", "col"], ["y"])], {"x": ["N", 1, 4]}),
    "GatherND with batch_dims": ([node("GatherND", ["x", "i"], ["y"], batch_dims=1)],
                                 {"x": N4, "i": (INT, ["N", 1])}),
    "Where by a mask of each row": ([node("Where", ["c", "x", "one"], ["y"])],
                                    {"x": N4, "c": (TensorProto.BOOL, ["N", 1])}),
    "Expand to the rows": ([*COUNT, node("Concat", ["s", "two"], ["t"], axis=0),
                            node("Expand", ["one", "t"], ["e"]),
                            node("Concat", ["x", "e"], ["y"], axis=1)], {"x": N4}),
    "classes by index": (
        [node("ArgMax", ["x"], ["i"], axis=1),
         node("ArrayFeatureExtractor", ["classes", "i"], ["z"], domain="ai.onnx.ml"),
         node("Reshape", ["z", "flat"], ["y"])], {"x": N4}),
    "Resize of places": ([node("Resize", ["x", "", "", "sizes"], ["y"])], {"x": PICTURE}),
    "Trilu of a row's matrix": ([node("Trilu", ["x"], ["y"])], {"x": ["N", 4, 4]}),
    "ReverseSequence": ([node("ReverseSequence", ["x", "n"], ["y"], batch_axis=0, time_axis=1)],
                        {"x": N4, "n": (INT, ["N"])}),
    "Pad of columns": ([node("Pad", ["x", "pair", "", "col"], ["y"])], {"x": N4}),
    "OneHot": ([node("OneHot", ["x", "two", "sc2"], ["y"])], {"x": (INT, ["N"])}),
    "Einsum": ([node("Einsum", ["x", "w"], ["y"], equation="nk,kj->nj")], {"x": N4}),
    "Split of columns": ([node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)], {"x": N4}),
    "Softmax of columns": ([node("Softmax", ["x"], ["y"], axis=1)], {"x": N4}),
    "Dropout": ([node("Dropout", ["x"], ["y"])], {"x": N4}),
    "Det": ([node("Det", ["x"], ["y"])], {"x": ["N", 4, 4]}),
    "DepthToSpace": ([node("DepthToSpace", ["x"], ["y"], blocksize=2)], {"x": PICTURE}),
    "LRN": ([node("LRN", ["x"], ["y"], size=3)], {"x": PICTURE}),
    "QuantizeLinear by channels": ([node("QuantizeLinear", ["x", "f4", "u4"], ["y"], axis=1)],
                                   {"x": N4}),
}  # fmt: skip
WEIGHTS["sizes"] = ints(1, 4, 12, 12)
APART["Resize of places"] = (
    [node("Shape", ["x"], ["s"], end=2), node("Concat", ["s", "nine"], ["t"], axis=0),
     node("Resize", ["x", "", "", "t"], ["y"])], {"x": PICTURE})  # fmt: skip
WEIGHTS["nine"] = ints(9, 9)

MIXED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "MatMulInteger, a zero point for each row": (
        [node("MatMulInteger", ["x", "w8", "u4"], ["y"])], {"x": (U8, N4)}, "zero point"),
    "MatMulInteger, rows as columns": (
        [node("Transpose", ["x"], ["t"]), node("MatMulInteger", ["w8", "t", "u1", "u4"], ["m"]),
         node("Transpose", ["m"], ["y"])], {"x": (U8, N4)}, "second zero point"),
    "QLinearMatMul, a scale for each row": (
        [node("QLinearMatMul", ["x", "f4", "u4", "w8", "one", "u1", "one", "u1"], ["y"])],
        {"x": (U8, N4)}, "scale"),
    "QLinearMatMul, rows as columns": (
        [node("Transpose", ["x"], ["t"]),
         node("QLinearMatMul", ["w8", "one", "u1", "t", "f4", "u4", "one", "u1"], ["m"]),
         node("Transpose", ["m"], ["y"])], {"x": (U8, N4)}, "second scale"),
    "QLinearMatMul, a scale of the rows": (
        [node("QLinearMatMul", ["x", "a", "u1", "w8", "one", "u1", "one", "u1"], ["y"])],
        {"x": (U8, N4), "a": ["N"]}, "has rows"),
    "QLinearConv, rows as channels": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]),
         node("QLinearConv", ["t", "one", "u1", "q4", "one", "u1", "one", "u1"], ["y"])],
        {"x": (U8, PICTURE)}, "window"),
    "DynamicQuantizeLinear": (
        [node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
         node("DequantizeLinear", ["q", "qs", "qz"], ["y"])], {"x": N4}, "over all rows"),
    "GroupNormalization, rows as channels": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]),
         node("GroupNormalization", ["t", "sc2", "sc2"], ["m"], num_groups=2),
         node("Transpose", ["m"], ["y"], perm=[1, 0, 2, 3])], {"x": PICTURE}, "normalizes"),
    "GridSample, one grid for all": (
        [node("GridSample", ["x", "grid"], ["y"])], {"x": PICTURE}, "only inputs"),
    "SkipLayerNormalization of a vector's rows": (
        [node("SkipLayerNormalization", ["x", "r", "f4"], ["y"], domain="com.microsoft")],
        {"x": N4, "r": N4}, "normalizes"),
    "FusedMatMul that transposes": (
        [node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transA=1)], {"x": N4},
        "transposes"),
    "Squeeze of the rows": ([node("Squeeze", ["x", "row"], ["y"])], {"x": N4}, "takes out"),
    "GatherND across rows": (
        [node("GatherND", ["x", "i"], ["y"])], {"x": N4, "i": (INT, ["N", 1])}, "other rows"),
    "GatherND of a table": (
        [node("GatherND", ["table", "i"], ["y"], batch_dims=1)], {"i": (INT, ["N", 1])},
        "own size"),
    "Where by a mask as long as a batch": (
        [node("Where", ["mask", "x", "one"], ["y"])], {"x": N4}, "own size"),
    "a vector of rows against a matrix of rows": (
        [node("Add", ["v", "x"], ["y"])], {"x": ["N", "N"], "v": ["N"]}, "different axes"),
    "Expand of the rows to a fixed size": (
        [node("Expand", ["x", "nine"], ["y"])], {"x": N4}, "own size"),
    "Expand twice by the rows": (
        [*COUNT, node("Concat", ["s", "s"], ["t"], axis=0), node("Expand", ["one", "t"], ["e"]),
         node("MatMul", ["e", "x"], ["y"])], {"x": N4}, "more than one dimension"),
    "classes by index, in turns": (
        [TURNED, node("Cast", ["t"], ["i"], to=INT),
         node("ArrayFeatureExtractor", ["classes", "i"], ["z"], domain="ai.onnx.ml"),
         node("Reshape", ["z", "flat"], ["y"])], {"x": N4}, "alternately"),
    "Resize of the rows": (
        [node("Resize", ["x", "", "", "sizes"], ["y"])], {"x": PICTURE}, "along the rows"),
    "Resize by what the rows say": (
        [node("Resize", ["x", "", "v"], ["y"], axes=[2])], {"x": PICTURE, "v": ["N"]},
        "computed from the rows"),
    "Trilu over the rows": ([node("Trilu", ["x"], ["y"])], {"x": N4}, "triangle"),
    "ReverseSequence of the rows": (
        [node("ReverseSequence", ["x", "n"], ["y"], batch_axis=1, time_axis=0)],
        {"x": N4, "n": (INT, ["N"])}, "it reverses rows"),
    "Pad of the rows": ([node("Pad", ["x", "pair", "", "row"], ["y"])], {"x": N4}, "pads the rows"),
    "Einsum that sums over the rows": (
        [node("Einsum", ["x", "x"], ["y"], equation="nk,nj->kj")], {"x": N4}, "sums over"),
    "Split of the rows": (
        [node("Split", ["x"], ["y", "z"], axis=0, num_outputs=2)], {"x": N4}, "splits along"),
    "Det of the rows": ([node("Det", ["x"], ["y"])], {"x": N4}, "matrix"),
    "QuantizeLinear by rows": (
        [node("QuantizeLinear", ["x", "f4", "u4"], ["y"], axis=0)], {"x": N4}, "for every row"),
    "Gather by the rows in the rows": (
        [node("Gather", ["x", "i"], ["y"])], {"x": N4, "i": (INT, ["N"])}, "other rows say"),
    "Gather along the rows": ([node("Gather", ["x", "row"], ["y"])], {"x": N4}, "some of the rows"),
    "Concat with weights": (
        [node("Concat", ["x", "twosome"], ["y"], axis=0)], {"x": N4}, "others none"),
    "Concat along the rows": (
        [node("Concat", ["x", "x"], ["y"], axis=0)], {"x": N4}, "along the rows"),
    "Gemm with rows on the right": ([node("Gemm", ["x", "x"], ["y"], transB=1)], {"x": N4},
                                    "second matrix"),
    "MatMul of rows by rows": (
        [TURNED, node("MatMul", ["x", "t"], ["y"])], {"x": N4}, "rows by rows"),
    "Flatten of everything": ([node("Flatten", ["x"], ["y"], axis=0)], {"x": N4}, "axis 1"),
    "Tile of the rows": ([node("Tile", ["x", "nine"], ["y"])], {"x": N4}, "repeats"),
    "Slice of the rows": (
        [node("Slice", ["x", "col", "nine1", "row"], ["y"])], {"x": N4}, "cuts along"),
    "Slice of the first rows": (
        [node("Slice", ["x", "row", "nine1", "row"], ["y"])], {"x": N4}, "cuts along"),
    "TopK of the rows": ([node("TopK", ["x", "col"], ["y", "i"], axis=0)], {"x": N4}, "ranks"),
    "BatchNormalization, rows as channels": (
        [TURNED, node("BatchNormalization", ["t", *["f4"] * 4], ["y"])], {"x": N4}, "channels"),
    "Clip by a limit for each row": (
        [node("Clip", ["x", "w"], ["y"])], {"x": N4}, "no scalars"),
    "Dropout by a ratio of the rows": (
        [node("Dropout", ["x", "r"], ["y"])], {"x": N4, "r": ["N"]}, "has rows"),
    "columns by what the rows say": (
        [node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain="ai.onnx.ml")],
        {"x": N4, "i": (INT, ["N"])}, "has rows"),
    "StringNormalizer that leaves out texts": (
        [node("StringNormalizer", ["x"], ["y"], stopwords=["a"])],
        {"x": (TensorProto.STRING, ["N"])}, "leaves out texts"),
    "StringNormalizer of a table": (
        [node("StringNormalizer", ["x"], ["y"])], {"x": (TensorProto.STRING, N4)}, "one row"),
    "ReverseSequence, time along the rows": (
        [node("ReverseSequence", ["x", "n"], ["y"], batch_axis=0, time_axis=0)],
        {"x": N4, "n": (INT, ["N"])}, "it reverses rows"),
    "Slice up to what a row says": (
        [node("Slice", ["x", "row", "n", "col"], ["y"])], {"x": N4, "n": (INT, ["N"])},
        "computed from the rows"),
    "the rows at another axis": ([TURNED, node("Identity", ["t"], ["y"])], {"x": N4}, "axis 1"),
    "an answer for all rows": ([node("Identity", ["w"], ["y"])], {"x": N4}, "same for every row"),
    "two elements for each row": (
        [node("Reshape", ["x", "half_rows"], ["y"])], {"x": N4}, "one element for each row"),
}  # fmt: skip
WEIGHTS["nine1"] = ints(9)
WEIGHTS["half_rows"] = ints(-1, 2)


@pytest.mark.parametrize("name", APART)
def test_rows_stay_apart(name: str) -> None:
    nodes, inputs = APART[name]
    found = verdict(nodes, inputs)
    assert found.apart, found.reason


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_meet_are_seen_by_the_rule_for_them(name: str) -> None:
    nodes, inputs, reason = MIXED[name]
    found = verdict(nodes, inputs)
    assert not found.apart
    assert reason in found.reason


def own(name: str, nodes: list[Any], *, attributes: tuple[str, ...] = ()) -> Any:
    return helper.make_function(
        "own", name, ["a"], ["b"], nodes,
        [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)], attributes,
    )  # fmt: skip


@pytest.mark.parametrize(("axis", "apart"), [(1, True), (0, False)])
def test_a_models_own_function_is_followed_with_its_callers_attributes(
    axis: int, apart: bool
) -> None:
    softmax = node("Softmax", ["a"], ["b"])
    reference = softmax.attribute.add(name="axis", ref_attr_name="along")
    reference.type = onnx.AttributeProto.INT
    function = own("Share", [softmax], attributes=("along",))
    call = node("Share", ["x"], ["y"], domain="own", along=axis)
    found = verdict([call], {"x": N4}, [function])
    assert found.apart == apart, found.reason


def test_functions_that_call_one_another_twice_do_not_take_forever() -> None:
    functions = [own("F0", [node("Neg", ["a"], ["b"])])] + [
        own(f"F{n}", [node(f"F{n - 1}", [name], [out], domain="own") for name, out in zip(
            ["a", *(f"v{i}" for i in range(7))], [*(f"v{i}" for i in range(7)), "b"], strict=True)])
        for n in range(1, 12)
    ]  # fmt: skip
    started = time.process_time()
    found = verdict([node("F11", ["x"], ["y"], domain="own")], {"x": N4}, functions)
    assert "steps" in found.reason
    assert time.process_time() - started < 60


def test_sizes_that_grow_exponentially_are_not_followed() -> None:
    squares = [node("Mul", [f"s{n}", f"s{n}"], [f"s{n + 1}"]) for n in range(60)]
    doubles = [node("Concat", [f"d{n}", f"d{n}"], [f"d{n + 1}"], axis=0) for n in range(40)]
    for first, nodes, last in (("s0", squares, "s60"), ("d0", doubles, "d40")):
        found = verdict(
            [node("Shape", ["x"], [first], start=0, end=1), *nodes,
             node("ConstantOfShape", [last], ["y"])], {"x": N4},
        )  # fmt: skip
        assert not found.apart
        assert "too large" in found.reason or "square" in found.reason


def test_made_up_rows_are_never_large() -> None:
    """Found: four free dimensions of 224 would be 10 GB."""
    tried: list[int] = []

    class Refusing:
        inputs = (probe.TensorSpec(name="x", datatype="FP32", shape=[-1] * 5),)
        output_names = ("y",)

        def run(self, _: Any, feeds: Any) -> Any:
            tried.append(max(value.size for value in feeds.values()))
            raise probe.InferenceError("no")

    assert "samples" in probe.difference(Refusing())
    assert tried
    assert max(tried) <= probe.MOST_ELEMENTS


DOCUMENT = helper.make_model(
    helper.make_graph(
        [node("Gemm", ["x", "w"], ["h"], alpha=0.5), *APART["classes by index"][0]], "g",
        [helper.make_tensor_value_info("x", F, N4)],
        [helper.make_tensor_value_info("y", INT, ["N"])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in WEIGHTS.items()],
    )
).SerializeToString()  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(DOCUMENT)), st.lists(st.tuples(st.integers(0), st.integers(0, 255))))
def test_a_file_that_was_cut_or_changed_is_read_or_refused(
    end: int, changes: list[tuple[int, int]]
) -> None:
    document = bytearray(DOCUMENT[:end])
    for at, byte in changes:
        if document:
            document[at % len(document)] = byte
    try:
        model = parse(bytes(document))
    except GraphError:
        return
    assert isinstance(analysis.analyze(model).reason, str)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_model_are_refused(document: bytes) -> None:
    try:
        analysis.analyze(parse(document))
    except GraphError as error:
        assert str(error)
