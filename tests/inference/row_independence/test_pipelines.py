"""Models as people export them are batched, and 32 callers get what one caller gets.

scikit-learn's pipelines by skl2onnx, the trainer's digits, and graphs of the shape that torch
writes. A model that is not batched is named with the reason.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from inference.models.load import read
from inference.repository.layout import Found
from inference.settings import InferenceSettings
from tests.inference import small_models
from tests.inference.callers import answers_alike
from tests.inference.conftest import Serve
from trainer import digits, training

Made = tuple[bytes, list[dict[str, np.ndarray]]]
"""A model, and one row for each caller."""

BENCH = runpy.run_path(str(Path(__file__).parents[3] / "bench/inference/models.py"))
CALLERS = 32
RANDOM = np.random.default_rng(11)
ROWS = RANDOM.standard_normal((120, 6)).astype(np.float32)
CLASSES = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.5).astype(int)
node = helper.make_node

# how well a model was trained says nothing of whether it is batched
pytestmark = pytest.mark.filterwarnings("ignore")


def numeric(estimator: Any) -> Made:
    estimator.fit(ROWS, CLASSES)
    options = {} if isinstance(estimator, KMeans) else {"zipmap": False}
    document = to_onnx(
        estimator, initial_types=[("x", FloatTensorType([None, 6]))], options=options,
        target_opset={"": 17, "ai.onnx.ml": 3},
    )  # fmt: skip
    return document.SerializeToString(), [{"x": ROWS[i : i + 1]} for i in range(CALLERS)]


def table_of_strings() -> Made:
    cities = np.array(["Seoul", "서울", "Busan", "", "Köln"], dtype=object)
    names = RANDOM.choice(cities, (120, 1))
    both = np.concatenate([ROWS[:, :2].astype(object), names], axis=1)
    estimator = make_pipeline(
        ColumnTransformer(
            [
                ("numbers", StandardScaler(), [0, 1]),
                ("words", OneHotEncoder(handle_unknown="ignore"), [2]),
            ]
        ),
        LogisticRegression(),
    ).fit(both, CLASSES)
    document = to_onnx(
        estimator, options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3},
        initial_types=[("a", FloatTensorType([None, 2])), ("b", StringTensorType([None, 1]))],
    )  # fmt: skip
    return document.SerializeToString(), [
        {"a": ROWS[i : i + 1, :2], "b": names[i : i + 1]} for i in range(CALLERS)
    ]


def texts() -> Made:
    words = np.array(["the", "good", "film", "was", "bad", "cat", "sat", "on", "mat", "Seoul"])
    said = [" ".join(RANDOM.choice(words, 1 + i % 7)) for i in range(120)]
    estimator = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression())
    estimator.fit(said, CLASSES)
    document = to_onnx(
        estimator, options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3},
        initial_types=[("text", StringTensorType([None, 1]))],
    )  # fmt: skip
    return document.SerializeToString(), [
        {"text": np.array([[text]], dtype=object)} for text in said[:CALLERS]
    ]


def trained_digits() -> Made:
    rows = digits.split()[0]
    pipeline = make_pipeline(
        StandardScaler(), MLPClassifier((16,), max_iter=30, random_state=0)
    ).fit(rows.pixels, rows.labels)
    document = training.export(pipeline, rows.pixels[:1])
    (spec,) = onnx.load_from_string(document).graph.input
    return document, [{spec.name: rows.pixels[i : i + 1]} for i in range(CALLERS)]


def exported(nodes: list[Any], weights: dict[str, Any], rest: list[Any]) -> Made:
    """A graph as torch exports it with ``dynamic_axes={0: "N"}`` for its input and output."""
    tensors = [
        numpy_helper.from_array(
            value if isinstance(value, np.ndarray) else np.array(value, np.int64), name
        )
        for name, value in weights.items()
    ]
    graph = helper.make_graph(
        nodes, "main_graph", [helper.make_tensor_value_info("input", TensorProto.FLOAT,
                                                            ["N", *rest])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 5])], tensors,
    )  # fmt: skip
    document = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    sizes = [size if isinstance(size, int) else 7 for size in rest]
    asked = RANDOM.standard_normal((CALLERS, 1, *sizes)).astype(np.float32)
    return document.SerializeToString(), [{"input": row} for row in asked]


def weights_of(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {
        name: (RANDOM.standard_normal(shape) / 3).astype(np.float32)
        for name, shape in shapes.items()
    }


def cnn() -> Made:
    nodes = [
        node("Conv", ["input", "c1", "b1"], ["/conv1"], kernel_shape=[3, 3], pads=[1] * 4,
             strides=[1, 1], dilations=[1, 1], group=1),
        node("BatchNormalization", ["/conv1", "gain", "bias", "mean", "var"], ["/bn1"],
             epsilon=1e-5, momentum=0.9, training_mode=0),
        node("Relu", ["/bn1"], ["/relu"]),
        node("MaxPool", ["/relu"], ["/pool"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["/pool", "c2"], ["/conv2"], kernel_shape=[3, 3], group=8),
        node("Add", ["/conv2", "/conv2"], ["/sum"]),
        node("GlobalAveragePool", ["/sum"], ["/gap"]),
        node("Flatten", ["/gap"], ["/flat"], axis=1),
        node("Gemm", ["/flat", "fc", "fcb"], ["output"], transB=1, alpha=1.0, beta=1.0),
    ]  # fmt: skip
    weights = weights_of(c1=(8, 3, 3, 3), b1=(8,), gain=(8,), bias=(8,), mean=(8,),
                         c2=(8, 1, 3, 3), fc=(5, 8), fcb=(5,))  # fmt: skip
    return exported(nodes, weights | {"var": np.ones(8, np.float32)}, [3, 16, 16])


def encoder(rest: list[Any]) -> Made:
    """One block of a transformer: 2 heads of 4, batch and length read by Shape and Gather."""

    def heads(name: str) -> list[Any]:
        return [
            node("MatMul", ["input", f"w{name}"], [f"/{name}p"]),
            node("Add", [f"b{name}", f"/{name}p"], [f"/{name}b"]),
            node("Concat", ["/batch1", "/length1", "two1", "four1"], [f"/{name}s"], axis=0),
            node("Reshape", [f"/{name}b", f"/{name}s"], [f"/{name}r"]),
            node("Transpose", [f"/{name}r"], [f"/{name}"], perm=[0, 2, 1, 3]),
        ]

    nodes = [
        node("Shape", ["input"], ["/shape"]),
        node("Gather", ["/shape", "zero"], ["/batch"], axis=0),
        node("Shape", ["input"], ["/shape2"]),
        node("Gather", ["/shape2", "one"], ["/length"], axis=0),
        node("Unsqueeze", ["/batch", "axis0"], ["/batch1"]),
        node("Unsqueeze", ["/length", "axis0"], ["/length1"]),
        *heads("q"), *heads("k"), *heads("v"),
        node("Transpose", ["/k"], ["/kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["/q", "/kt"], ["/scores"]),
        node("Sqrt", ["four"], ["/root"]),
        node("Div", ["/scores", "/root"], ["/scaled"]),
        node("Softmax", ["/scaled"], ["/attention"], axis=-1),
        node("MatMul", ["/attention", "/v"], ["/mixed"]),
        node("Transpose", ["/mixed"], ["/back"], perm=[0, 2, 1, 3]),
        node("Concat", ["/batch1", "/length1", "eight1"], ["/joined"], axis=0),
        node("Reshape", ["/back", "/joined"], ["/context"]),
        node("Add", ["/context", "input"], ["/residual"]),
        node("LayerNormalization", ["/residual", "gain", "bias"], ["/norm"], axis=-1),
        node("MatMul", ["/norm", "up"], ["/up"]),
        node("Div", ["/up", "root2"], ["/u1"]), node("Erf", ["/u1"], ["/u2"]),
        node("Add", ["/u2", "unit"], ["/u3"]), node("Mul", ["/up", "/u3"], ["/gelu"]),
        node("MatMul", ["/gelu", "down"], ["/down"]),
        node("Add", ["/down", "/norm"], ["/last"]),
        node("ReduceMean", ["/last"], ["/mean"], axes=[1], keepdims=0),
        node("Gemm", ["/mean", "fc"], ["output"], transB=1),
    ]  # fmt: skip
    weights = weights_of(
        wq=(8, 8), wk=(8, 8), wv=(8, 8), bq=(8,), bk=(8,), bv=(8,), gain=(8,), bias=(8,),
        up=(8, 16), down=(16, 8), fc=(5, 8),
    )  # fmt: skip
    constants = {"zero": 0, "one": 1, "axis0": [0], "two1": [2], "four1": [4], "eight1": [8]}
    floats = {name: np.float32(value) for name, value in
              (("four", 4), ("root2", 2**0.5), ("unit", 1))}  # fmt: skip
    return exported(nodes, weights | constants | {n: np.array(v) for n, v in floats.items()}, rest)


def of_bench(name: str, features: int) -> Made:
    document = BENCH["document"](name).SerializeToString()
    asked = RANDOM.random((CALLERS, 1, features), np.float32)
    return document, [{"input": row} for row in asked]


MODELS: dict[str, Any] = {
    "digits": trained_digits,
    "bench linear-4": lambda: of_bench("linear4", 4),
    "bench mlp": lambda: of_bench("mlp", 784),
    "bench slow": lambda: of_bench("slow", 64),
    "logistic regression": lambda: numeric(make_pipeline(StandardScaler(), LogisticRegression())),
    "random forest": lambda: numeric(RandomForestClassifier(10, random_state=0)),
    "gradient boosting": lambda: numeric(GradientBoostingClassifier(n_estimators=8)),
    "support vectors": lambda: numeric(SVC(probability=True, random_state=0)),
    "neighbours": lambda: numeric(KNeighborsClassifier(3)),
    "k-means": lambda: numeric(KMeans(3, n_init=1, random_state=0)),
    "perceptron": lambda: numeric(MLPClassifier((8,), max_iter=50, random_state=0)),
    "table with strings": table_of_strings,
    "CNN": cnn,
    "transformer": lambda: encoder([12, 8]),
    "transformer of any length": lambda: encoder(["length", 8]),
}
NOT_BATCHED = {"texts": (texts, "Tokenizer")}


def decision(repository: Path, document: bytes) -> Any:
    folder = small_models.put(repository, "m", "1", document)
    return read(folder, Found("m", "1", ""), threads=1, settings=InferenceSettings()).batching


@pytest.mark.parametrize("name", MODELS)
async def test_a_model_as_people_export_it_is_batched_and_right(
    name: str, serve: Serve, repository: Path
) -> None:
    document, asked = MODELS[name]()
    found = decision(repository, document)
    assert found.batching, found.reason
    async with serve(target_wait_ms=60_000) as running:
        largest = await answers_alike(running, "m", asked)
    assert largest > 1, "requests were run together"


@pytest.mark.parametrize("name", NOT_BATCHED)
async def test_a_model_that_cannot_be_followed_says_why_and_is_right(
    name: str, serve: Serve, repository: Path
) -> None:
    make, reason = NOT_BATCHED[name]
    document, asked = make()
    found = decision(repository, document)
    assert not found.batching
    assert reason in found.reason
    async with serve(target_wait_ms=60_000) as running:
        assert await answers_alike(running, "m", asked) == 1
