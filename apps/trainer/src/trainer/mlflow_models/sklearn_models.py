"""A scikit-learn model of MLflow converted to ONNX, and compared with itself.

Source: sklearn-onnx, "Convert a pipeline with a ColumnTransformer"; MLflow 3, "Model Signature".
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort  # type: ignore[import-untyped]
import sklearn  # type: ignore[import-untyped]
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from skl2onnx.common.data_types import (  # type: ignore[import-untyped]
    BooleanTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from sklearn.base import is_classifier  # type: ignore[import-untyped]

from trainer.mlflow_models.errors import MlflowModelError

Array = npt.NDArray[Any]
_TYPES = {
    "double": (FloatTensorType, np.float32),
    "float": (FloatTensorType, np.float32),
    "float64": (FloatTensorType, np.float32),
    "float32": (FloatTensorType, np.float32),
    "long": (Int64TensorType, np.int64),
    "integer": (Int64TensorType, np.int64),
    "int64": (Int64TensorType, np.int64),
    "int32": (Int64TensorType, np.int64),
    "boolean": (BooleanTensorType, np.bool_),
    "bool": (BooleanTensorType, np.bool_),
    "string": (StringTensorType, np.str_),
    "str": (StringTensorType, np.str_),
}
"""Types of MLflow's signatures, columns' and tensors'.

FP64 becomes FP32: scikit-learn's trees compare FP32 themselves, and the trees of ONNX have
thresholds of no other type.
"""
FARTHEST = 1e-3
"""How far a number may be from scikit-learn's, relative to the larger of it and 1."""


@dataclass(frozen=True)
class _Input:
    """An input of the ONNX model: ``width`` columns of one of the types above."""

    name: str
    kind: str
    width: int


def convert(folder: Path, manifest: Mapping[str, Any], to: Path) -> list[str]:
    """Write a logged scikit-learn model as ONNX; what was guessed and compared, in sentences.

    Inputs come from the signature: a matrix, or one input a column where a step picks columns by
    name or there is text. Labels of the logged input example must be the model's own.

    Raises MlflowModelError where it cannot be read or converted, or answers otherwise.
    """
    flavor = manifest["flavors"]["sklearn"]
    notes: list[str] = []
    made_with = str(flavor.get("sklearn_version", ""))
    if made_with != sklearn.__version__:
        notes.append(
            f"logged with scikit-learn {made_with or 'of an unknown version'}, read with "
            f"{sklearn.__version__}"
        )
    model = _model(folder, flavor)
    inputs = _inputs(model, manifest, notes)
    if "double" in str(manifest.get("signature")) or "float64" in str(manifest.get("signature")):
        notes.append("inputs of FP64 are FP32 in the ONNX file")
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    types = [(one.name, _TYPES[one.kind][0]([None, one.width])) for one in inputs]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx = to_onnx(model, initial_types=types, options=options)
    except Exception as error:  # the library raises whatever it met
        raise MlflowModelError(
            f"skl2onnx does not convert {type(model).__name__}: {_short(error)}"
        ) from error
    data: bytes = onnx.SerializeToString()
    notes.append(_compared(model, data, inputs, folder, manifest))
    to.write_bytes(data)
    return notes


def _model(folder: Path, flavor: Mapping[str, Any]) -> Any:
    path = folder / str(flavor.get("pickled_model", "model.pkl"))
    if folder.resolve() not in path.resolve().parents:
        raise MlflowModelError(f"MLmodel names {path.name!r}, which lies outside of the model")
    form = flavor.get("serialization_format", "pickle")
    try:
        if form == "skops":
            from skops import io  # noqa: PLC0415 - only models of that form need it

            return io.load(path, trusted=list(flavor.get("skops_trusted_types") or ()))
        # cloudpickle writes what pickle reads.
        return pickle.loads(path.read_bytes())  # noqa: S301 - the caller's own registry
    except Exception as error:  # a pickle raises whatever its classes do
        raise MlflowModelError(
            f"the {form} of the model cannot be read: {_short(error)}; install what its "
            "requirements.txt names"
        ) from error


def _inputs(model: Any, manifest: Mapping[str, Any], notes: list[str]) -> list[_Input]:
    signature = (manifest.get("signature") or {}).get("inputs")
    columns: list[dict[str, Any]] = json.loads(signature) if signature else []
    if not columns:
        width = getattr(model, "n_features_in_", None)
        if width is None:
            raise MlflowModelError(
                "the model was logged without a signature and does not say how many columns it "
                "takes: log it with input_example="
            )
        notes.append(f"without a signature it is assumed to have {width} columns of FP32")
        return [_Input("input", "float", int(width))]
    if columns[0].get("type") == "tensor":
        spec = columns[0]["tensor-spec"]
        if len(columns) > 1 or len(spec["shape"]) != 2:
            raise MlflowModelError(f"the signature {signature} is no table of rows")
        return [_Input("input", _kind(spec["dtype"]), int(spec["shape"][1]))]
    kinds = [_kind(one["type"]) for one in columns]
    if len(set(kinds)) == 1 and kinds[0] not in ("string", "str") and not _picks_columns(model):
        return [_Input("input", kinds[0], len(kinds))]
    names = [str(one.get("name") or "input") for one in columns]
    return [_Input(name, kind, 1) for name, kind in zip(names, kinds, strict=True)]


def _kind(name: Any) -> str:
    if name in _TYPES:
        return str(name)
    raise MlflowModelError(
        f"the signature has the type {name!r}: {', '.join(sorted(_TYPES))} are converted"
    )


def _picks_columns(model: Any) -> bool:
    """Whether a step picks columns by name, which a matrix does not have."""
    steps = getattr(model, "steps", None)
    inner = [step for _, step in steps] if steps else [model]
    return any(hasattr(step, "transformers") for step in inner)


def _compared(
    model: Any, onnx: bytes, inputs: Sequence[_Input], folder: Path, manifest: Mapping[str, Any]
) -> str:
    """What scikit-learn and ONNX Runtime answer to the logged input example."""
    rows = _example(folder, manifest, inputs)
    if rows is None:
        return "no input example was logged: the ONNX file's answers were compared with nothing"
    feeds = _feeds(rows, inputs)
    try:
        session = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        answers = session.run(None, feeds)
    except Exception as error:  # ONNX Runtime's exceptions have no common class but this
        raise MlflowModelError(
            f"ONNX Runtime does not run what skl2onnx made: {_short(error)}"
        ) from error
    table = _as_trained(model, feeds, inputs)
    wanted = np.asarray(model.predict(table))
    got = np.asarray(answers[0]).reshape(wanted.shape)
    if wanted.dtype.kind in "fc":
        return f"{len(rows)} rows of the input example differ by at most {_gap(wanted, got):.3g}"
    if not np.array_equal(wanted.astype(str), got.astype(str)):
        raise MlflowModelError(
            f"the ONNX file answers the input example {got.tolist()}, scikit-learn "
            f"{wanted.tolist()}"
        )
    said = f"{len(rows)} rows of the input example have the same labels"
    if len(answers) > 1 and hasattr(model, "predict_proba"):
        gap = _gap(np.asarray(model.predict_proba(table)), np.asarray(answers[1]))
        said += f", their probabilities differ by at most {gap:.3g}"
    return said


def _gap(wanted: Array, got: Array) -> float:
    """The largest difference; MlflowModelError where it is too large."""
    gap = float(np.max(np.abs(wanted - got) / np.maximum(1.0, np.abs(wanted)), initial=0.0))
    if not gap <= FARTHEST:
        raise MlflowModelError(
            f"the ONNX file answers the input example otherwise than scikit-learn, by {gap:.3g}"
        )
    return gap


def _example(
    folder: Path, manifest: Mapping[str, Any], inputs: Sequence[_Input]
) -> list[list[Any]] | None:
    """Rows of the logged input example, a value for each column; None where there are none."""
    about = manifest.get("saved_input_example_info") or {}
    path = folder / str(about.get("artifact_path", "input_example.json"))
    if not path.is_file() or folder.resolve() not in path.resolve().parents:
        return None
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content = content.get("data", content.get("inputs"))
    width = sum(one.width for one in inputs)
    fits = isinstance(content, list) and all(
        isinstance(row, list) and len(row) == width for row in content
    )
    return content if fits and content else None


def _feeds(rows: Sequence[Sequence[Any]], inputs: Sequence[_Input]) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    at = 0
    for one in inputs:
        cells = [row[at : at + one.width] for row in rows]
        kind = np.object_ if one.kind in ("string", "str") else _TYPES[one.kind][1]
        feeds[one.name] = np.array(cells, dtype=kind)
        at += one.width
    return feeds


def _as_trained(model: Any, feeds: Mapping[str, Array], inputs: Sequence[_Input]) -> Any:
    """The rows as the model was trained on them: a matrix, texts, or a table with names."""
    if len(inputs) == 1 and not _picks_columns(model):
        only = feeds[inputs[0].name]
        texts = inputs[0].kind in ("string", "str") and inputs[0].width == 1
        return only[:, 0] if texts else only
    import pandas as pd  # noqa: PLC0415 - only a model of named columns needs it

    return pd.DataFrame({name: values[:, 0] for name, values in feeds.items()})


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0][:200]}"
