"""ONNX's own backend tests, loaded and asked as this server does: right, or refused by name.

`make conformance` runs all that the ``onnx`` package generates and writes the table; every 40th
runs in `make test`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.errors import InferenceError, ModelError
from inference.models import Loaded, read
from inference.repository import Found
from inference.rows.analysis import analyze
from inference.rows.graph import Model, parse
from inference.rows.probe import difference
from inference.settings import InferenceSettings
from kit.oip import datatypes
from kit.oip.inputs import read_input
from kit.oip.tensors import as_text, to_json
from tests import conformance
from tests.inference import small_models


def cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def ask(loaded: Loaded, values: list[Any]) -> list[np.ndarray] | str:
    """The model's answer to a request with these tensors, or why there is none."""
    by_name = {spec.name: spec for spec in loaded.model.inputs}
    if len(values) != len(by_name) or any(not isinstance(v, np.ndarray) for v in values):
        return "an input is absent or no tensor"
    feeds: dict[str, Any] = {}
    for spec, value in zip(loaded.model.inputs, values, strict=True):
        found = datatypes.of_array(value.dtype)
        odd = value.dtype.kind == "f" and not np.isfinite(value).all()
        if odd:
            return "JSON has no NaN or infinity"
        tensor = {"name": spec.name, "datatype": found, "shape": list(value.shape),
                  "data": np.asarray(to_json(value)).tolist()}  # fmt: skip
        _, array, _, _ = read_input(
            tensor, memoryview(b""), 0, by_name, feeds, model="m", takes_images=False
        )
        feeds[spec.name] = as_text(spec.name, array) if found == "BYTES" else array
    return loaded.model.run(None, feeds)


def same(one: Any, other: Any, case: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "OUS":
        return [str(v) for v in one.ravel()] == [str(v) for v in other.ravel()]
    return np.allclose(
        one.astype(np.float64), other.astype(np.float64), rtol=max(case.rtol, 1e-3),
        atol=max(case.atol or 0, 1e-5), equal_nan=True,
    )  # fmt: skip


def verdict(case: Any, repository: Path) -> tuple[str, str]:
    """Right, refused or wrong, and why."""
    name = case.name.replace("_expanded", "_x")[:100]
    folder = small_models.put(repository, name, "1", case.model.SerializeToString())
    try:
        loaded = read(folder, Found(name, "1", ""), threads=1, settings=InferenceSettings())
    except ModelError as error:
        return "refused at load", str(error)
    for inputs, outputs in case.data_sets:
        try:
            answer = ask(loaded, list(inputs))
        except (InferenceError, ValueError, KeyError) as error:
            return "refused when asked", str(error)
        if isinstance(answer, str):
            return "cannot be said in JSON", answer
        if len(answer) < len(outputs) or not all(
            same(one, other, case) for one, other in zip(answer, outputs, strict=False)
        ):
            return _unlike(folder, list(inputs), answer)
    return "right", ""


def _unlike(folder: Path, inputs: list[Any], answer: list[np.ndarray]) -> tuple[str, str]:
    """Ours is wrong only where ONNX Runtime itself gives something else for the same input."""
    import onnxruntime as ort

    session = ort.InferenceSession(folder / "model.onnx")
    names = [value.name for value in session.get_inputs()]
    bare = session.run(None, dict(zip(names, inputs, strict=True)))
    equal = all(
        one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        for one, other in zip(answer, bare, strict=True)
    )
    return ("ONNX Runtime itself answers otherwise" if equal else "wrong"), folder.parent.name


def with_rows(case: Any) -> Any:
    """The case's model with a first dimension of any size at every input and output."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(case.model)
    del copy.graph.value_info[:]
    for info in (*copy.graph.input, *copy.graph.output):
        shape = info.type.tensor_type.shape
        if info.type.HasField("tensor_type") and len(shape.dim):
            shape.dim[0].dim_param = "rows"
    for info in copy.graph.output:
        info.type.tensor_type.ClearField("shape")
    return copy


def wrongly_batched(case: Any, repository: Path) -> tuple[bool, str]:
    """Whether the graph of the case with rows is said to keep them apart, and what differs."""
    from inference.runtime import OnnxModel

    document = with_rows(case).SerializeToString()
    graph = parse(document)
    assert isinstance(graph, Model)
    if not analyze(graph).apart:
        return False, ""
    path = repository / "rows.onnx"
    path.write_bytes(document)
    try:
        model = OnnxModel(path, threads=1)
    except ModelError:
        return False, ""
    return True, difference(model, coarse="antize" in case.name or "qlinear" in case.name)


def run(chosen: list[Any], repository: Path) -> tuple[Counter[str], list[str], list[str]]:
    counts: Counter[str] = Counter()
    wrong, batched = [], []
    for case in chosen:
        kind, why = verdict(case, repository)
        counts[kind] += 1
        if kind == "wrong":
            wrong.append(f"{case.name}: {why}")
        yes, why = wrongly_batched(case, repository)
        if yes and not why:
            batched.append(case.name)
        elif yes and "no made-up input" not in why:
            wrong.append(f"{case.name}: {why}")
    return counts, wrong, batched


def test_some_of_onnxs_models_are_right_or_refused(tmp_path: Path) -> None:
    counts, wrong, _ = run(cases()[::40], tmp_path)
    assert counts["right"] > 20
    assert wrong == []


@pytest.mark.conformance
def test_all_of_onnxs_models_are_right_or_refused(tmp_path: Path) -> None:
    chosen = cases()
    counts, wrong, batched = run(chosen, tmp_path)
    lines = [f"| {kind} | {number} |" for kind, number in sorted(counts.items())]
    conformance.write_section(
        "ONNX's backend tests",
        f"{len(chosen)} models of the `onnx` package, loaded and asked as this server does.\n\n"
        "| | models |\n|---|---|\n" + "\n".join(lines) + "\n\n"
        f"With a first dimension of any size, {len(batched)} of them are batched, each tried with "
        "random rows alone and together: " + ", ".join(f"`{name}`" for name in sorted(batched))
        + ".",
    )  # fmt: skip
    assert wrong == []
