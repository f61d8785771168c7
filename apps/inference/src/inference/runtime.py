"""ONNX Runtime: a loaded model, its tensors as the protocol describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state  # type: ignore[import-untyped]

from inference.errors import BadRequest, InferenceError, ModelError, ModelFailed
from inference.manifest import Manifest, TensorSpec, suits
from kit.oip import datatypes
from kit.oip.tensors import Array

VERSION: str = ort.__version__
_REFUSED = (ort_state.InvalidArgument,)


class OnnxModel:
    """A session and what it takes and gives. ``run`` may be called from any thread."""

    def __init__(self, model: Path, *, threads: int) -> None:
        """ModelError says why ONNX Runtime cannot load the file.

        It is given the path: of a model given as bytes it would keep a second copy for good.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # a thread that spins between requests burns the quota of the ones that work
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # every kind of its own derives from Exception alone
            raise ModelError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from None
        self.inputs = tuple(_spec("input", value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec("output", value) for value in self._session.get_outputs())
        self.output_names = tuple(spec.name for spec in self.outputs)
        self._rows = [
            value.shape[0] if value.shape else 0
            for value in (*self._session.get_inputs(), *self._session.get_outputs())
        ]

    @property
    def has_row_dimension(self) -> bool:
        """Whether the first dimension of every tensor is one and the same variable.

        Tensors whose first dimensions have different names cannot be put together row by row.
        """
        named = {row for row in self._rows if isinstance(row, str)}
        return all(row is None or isinstance(row, str) for row in self._rows) and len(named) <= 1

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """The named outputs, or all in the model's order.

        BadRequest where ONNX Runtime finds the input itself at fault, else ModelFailed.
        """
        try:
            return cast("list[Array]", self._session.run(outputs, feeds))
        except _REFUSED as error:
            raise BadRequest(f"the model refused the input: {_first_line(error)}") from None
        except Exception as error:
            raise ModelFailed(f"the model failed: {_first_line(error)}") from None

    def sample(self, rows: int, *, fill: float = 0) -> dict[str, Array]:
        """Inputs of ``rows`` rows, other variable dimensions 1, every element ``fill``."""
        feeds: dict[str, Array] = {}
        for position, spec in enumerate(self.inputs):
            shape = [1 if size < 0 else size for size in spec.shape]
            if shape and spec.shape[0] < 0 and self._rows[position] != 0:
                shape[0] = rows
            if spec.datatype == "BYTES":
                feeds[spec.name] = np.full(shape, str(fill), dtype=object)
            else:
                feeds[spec.name] = np.full(shape, fill, dtype=datatypes.NUMPY[spec.datatype])
        return feeds


def check_manifest(model: OnnxModel, manifest: Manifest) -> None:
    """ModelError names the tensor of ``model.json`` that the file does not have like that."""
    for kind, said, there in (
        ("input", manifest.inputs, model.inputs),
        ("output", manifest.outputs, model.outputs),
    ):
        if said is None:
            continue
        by_name = {spec.name: spec for spec in there}
        if {spec.name for spec in said} != set(by_name):
            raise ModelError(
                f"model.json lists {kind}s {sorted(spec.name for spec in said)}, "
                f"model.onnx has {sorted(by_name)}"
            )
        for spec in said:
            real = by_name[spec.name]
            if spec.datatype != real.datatype or not suits(spec.shape, real.shape):
                raise ModelError(
                    f"model.json says {kind} {spec.name!r} is {spec.datatype} {spec.shape}, "
                    f"model.onnx has {real.datatype} {real.shape}"
                )


def row_independent(model: OnnxModel) -> bool:
    """Whether two different rows give the same together as alone: what batching rests on."""
    try:
        first, second = model.sample(1, fill=0), model.sample(1, fill=1)
        together = {name: np.concatenate([first[name], second[name]]) for name in first}
        alone = [
            np.concatenate(pair)
            for pair in zip(model.run(None, first), model.run(None, second), strict=True)
        ]
        for one, both in zip(alone, model.run(None, together), strict=True):
            if one.shape != both.shape:
                return False
            same = (
                np.array_equal(one, both)
                if one.dtype.kind == "O"
                else np.allclose(one, both, rtol=1e-3, atol=1e-5, equal_nan=one.dtype.kind == "f")
            )
            if not same:
                return False
    except (InferenceError, ValueError):
        return False
    return True


def _spec(kind: str, value: Any) -> TensorSpec:
    datatype = datatypes.from_onnx(value.type)
    if value.type == "tensor(bfloat16)":
        raise ModelError(
            f"{kind} {value.name!r} is BF16, which ONNX Runtime neither takes from nor gives to "
            "numpy: put a Cast to FP32 at the model's border (its inside may stay BF16)"
        )
    if datatype is None:
        raise ModelError(
            f"{kind} {value.name!r} is a {value.type}, which the protocol has no name for: "
            "export the model with plain tensors (for skl2onnx: options={'zipmap': False})"
        )
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    return TensorSpec.model_validate({"name": value.name, "datatype": datatype, "shape": shape})


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:500]
