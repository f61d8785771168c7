"""ONNX Runtime: a loaded model, its tensors as the protocol describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state  # type: ignore[import-untyped]

from inference.errors import (
    BadRequest,
    InputsFailed,
    ModelError,
    ModelFailed,
    Overloaded,
    RunTooLarge,
)
from inference.models import run_memory
from inference.models.known_input import KnownInput
from inference.repository.manifest import Manifest, TensorSpec, suits
from inference.row_independence.decision import graph_of
from inference.row_independence.graph import Model as Graph
from kit.oip import datatypes
from kit.oip.tensors import Array

VERSION: str = ort.__version__
_REFUSED = (ort_state.InvalidArgument,)
_RUN_ERRORS = (
    ort_state.Fail,
    ort_state.RuntimeException,
    ort_state.NotImplemented,
    ort_state.EngineError,
    ort_state.EPFail,
)
"""What ONNX Runtime raises from a run, be it the model's fault or its inputs'."""


_SMALL = 16 << 10
"""Bytes up to which an output is copied, so that it keeps no piece of the memory for runs."""


class OnnxModel:
    """A session and what it takes and gives. ``run`` may be called from any thread."""

    def __init__(
        self, model: Path, *, threads: int, name: str = "", run_memory_bytes: int = 0
    ) -> None:
        """ModelError says why ONNX Runtime cannot load the file; other errors say the ``name``.

        It is given the path: of a model given as bytes it would keep a second copy for good.
        """
        self._name = name
        self._run_memory = run_memory.run_memory(run_memory_bytes)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # a thread that spins between requests burns the quota of the ones that work
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session, self._arena = run_memory.open_session(model, options, self._run_memory)
        except Exception as error:  # every kind of its own derives from Exception alone
            raise ModelError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from None
        self.known_input = KnownInput(lambda feeds: self._session.run(None, feeds))
        self.graph = graph_of(model)
        """The file's graph, or why it cannot be read."""
        free = _free_ranks(self.graph)
        self.inputs = tuple(_spec("input", value, free) for value in self._session.get_inputs())
        self.outputs = tuple(_spec("output", value, free) for value in self._session.get_outputs())
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

        BadRequest where ONNX Runtime finds the input itself at fault, RunTooLarge where it takes
        too much memory, Overloaded where others hold that, InputsFailed where the model still
        answers what it has answered before, else ModelFailed. Large arrays lie in that memory.
        """
        try:
            try:
                found = cast("list[Array]", self._session.run(outputs, feeds))
            except Exception as error:
                if not run_memory.refused(error):
                    raise
                found = self._run_again(outputs, feeds, run_memory.asked(error))
            if not self.known_input.finite:
                self.known_input.note(feeds, found)
            return [part.copy() if part.nbytes <= _SMALL else part for part in found]
        except _REFUSED as error:
            raise BadRequest(f"the model refused the input: {_first_line(error)}") from None
        except _RUN_ERRORS as error:
            if self.known_input.still_runs():
                raise InputsFailed(
                    f"the model could not run on these inputs: {_first_line(error)}"
                ) from None
            raise ModelFailed(f"the model failed: {_first_line(error)}") from None
        except (Overloaded, RunTooLarge):
            raise
        except Exception as error:
            raise ModelFailed(f"the model failed: {_first_line(error)}") from None

    def _run_again(
        self, outputs: Sequence[str] | None, feeds: Mapping[str, Array], refused: int
    ) -> list[Array]:
        """The outputs after ``refused`` bytes were not there: they may be, in one piece."""
        too_large = RunTooLarge(
            f"model {self._name!r} needs more memory for these inputs than its runs may take, "
            f"{self._run_memory >> 20} MiB (run_memory_bytes): send fewer rows, ask for a smaller "
            "output, or have that setting raised"
        )
        if self._arena.never_has(refused):
            raise too_large
        self._arena.shrink()
        try:
            return cast("list[Array]", self._session.run(outputs, feeds))
        except Exception as error:
            if not run_memory.refused(error):
                raise
        if self._arena.in_use():
            raise Overloaded(
                f"the memory for runs of model {self._name!r} is in use "
                f"({self._run_memory >> 20} MiB, run_memory_bytes): try again"
            )
        raise too_large

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
            fits = real.free_rank or suits(spec.shape, real.shape)
            if spec.datatype != real.datatype or not fits:
                raise ModelError(
                    f"model.json says {kind} {spec.name!r} is {spec.datatype} {spec.shape}, "
                    f"model.onnx has {real.datatype} {real.shape}"
                )
    check_labels(model.outputs, manifest.labels)


def check_labels(outputs: Sequence[TensorSpec], labels: Sequence[str]) -> None:
    """ModelError where the model's scores are for another number of classes than has labels.

    Where numbers of classes are an output beside several others, or the width of one is not
    known, or is 1 (the score of one class against another), any number of labels may be right.
    """
    scores = [spec for spec in outputs if spec.datatype.startswith("FP")]
    if not labels or not scores or (len(scores) > 1 and len(scores) < len(outputs)):
        return
    widths = [-1 if spec.free_rank or not spec.shape else spec.shape[-1] for spec in scores]
    if min(widths) <= 1 or len(labels) in widths:
        return
    have = ", ".join(
        f"{spec.name!r} has {width}" for spec, width in zip(scores, widths, strict=True)
    )
    raise ModelError(
        f"model.json has {len(labels)} labels, and no output has as many values a row ({have}): "
        "give one label for each class, in the order of the scores"
    )


def _free_ranks(graph: Graph | str) -> set[str]:
    """Inputs and outputs without a shape. ONNX Runtime shows them as it shows scalars."""
    if isinstance(graph, str):
        return set()
    values = (*graph.graph.inputs, *graph.graph.outputs)
    return {value.name for value in values if value.tensor and value.dims is None}


def _spec(kind: str, value: Any, free: set[str]) -> TensorSpec:
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
    any_rank = value.name in free and not shape
    return TensorSpec.model_validate(
        {
            "name": value.name,
            "datatype": datatype,
            "shape": [-1] if any_rank else shape,
            "free_rank": any_rank,
        }
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:500]
