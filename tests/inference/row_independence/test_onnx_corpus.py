"""ONNX's own backend tests, loaded and asked as this server does: right, or refused by name.

`make conformance` runs all that the ``onnx`` package generates and writes the table; some run in
`make test`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.errors import InferenceError, ModelError
from inference.models.load import Loaded, read
from inference.repository.layout import Found
from inference.row_independence import probe
from inference.row_independence.analysis import analyze
from inference.row_independence.graph import Model, parse
from inference.row_independence.probe import difference
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
        return [*collect_testcases(None), *stored_cases()]


def some_cases() -> list[Any]:
    """Every third of every twelfth operator, whose cases alone are made, and some stored ones."""
    from onnx.backend.test.case import node

    operators = sorted(module.name for module in pkgutil.iter_modules(node.__path__))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in operators[::12]:
            importlib.import_module(f"{node.__name__}.{operator}")
    return [*node._NodeTestCases[::3], *stored_cases()[::40]]


@dataclass(frozen=True, slots=True)
class Stored:
    """A case that the ``onnx`` package holds as files."""

    name: str
    model: Any
    data_sets: list[Any]
    rtol: float = 1e-3
    atol: float = 1e-5


def stored_cases() -> list[Stored]:
    """Of other kinds than single operators: as torch exported them, and small whole models."""
    import onnx
    from onnx.backend.test import loader

    data = Path(loader.DATA_DIR)
    found = []
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for folder in sorted((data / kind).iterdir()):
            model = onnx.load(folder / "model.onnx")
            sets = [
                tuple(
                    [tensor(path) for path in sorted(one.glob(f"{side}_*.pb"), key=_number)]
                    for side in ("input", "output")
                )
                for one in sorted(folder.glob("test_data_set_*"))
            ]
            found.append(Stored(f"{kind}/{folder.name}", model, sets))
    return found


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def tensor(path: Path) -> Any:
    """The array in a file; what else it holds, which no request can say, stays as it is."""
    import onnx

    proto = onnx.TensorProto()
    try:
        proto.ParseFromString(path.read_bytes())
        return onnx.numpy_helper.to_array(proto)
    except Exception:  # a sequence or an optional
        return proto


def ask(loaded: Loaded, values: list[Any]) -> list[np.ndarray] | str:
    """The model's answer to a request with these tensors, or why there is none."""
    by_name = {spec.name: spec for spec in loaded.model.inputs}
    if len(values) != len(by_name) or any(not isinstance(v, np.ndarray) for v in values):
        return "an input is absent or no tensor"
    feeds: dict[str, Any] = {}
    for spec, value in zip(loaded.model.inputs, values, strict=True):
        found = datatypes.of_array(value.dtype)
        tensor = {"name": spec.name, "datatype": found, "shape": list(value.shape)}
        binary = b""
        if value.dtype.kind == "f" and not np.isfinite(value).all():  # JSON cannot say these
            binary = value.tobytes()
            tensor["parameters"] = {"binary_data_size": len(binary)}
        else:
            tensor["data"] = np.asarray(to_json(value)).tolist()
        _, array, _, _ = read_input(
            tensor, memoryview(binary), 0, by_name, feeds, model="m", takes_images=False
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
    name = case.name.replace("_expanded", "_x").replace("/", "-")[:100]
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
            return "cannot be said in a request", answer
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
    from inference.models.onnx_model import OnnxModel

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
    coarse = "antize" in case.name or "qlinear" in case.name
    return True, difference(model, coarse=coarse) or shuffled(model, coarse=coarse)


def shuffled(model: Any, *, coarse: bool) -> str:
    """What differs between 64 rows alone and together in another order; empty where nothing."""
    generator = np.random.default_rng(64)
    for size in probe.SIZES:
        for limit in (1000, 100, 8, 2, 1):
            rows = [probe._row(model, size, 1.0, limit, generator) for _ in range(64)]
            alone = probe._alone(model, rows)
            if alone is None:
                continue
            order = generator.permutation(64)
            together = {name: np.concatenate([rows[n][name] for n in order]) for name in rows[0]}
            for position, answer in enumerate(model.run(None, together)):
                expected = [alone[number][position] for number in order]
                if why := probe._unlike(expected, answer, coarse=coarse):
                    return f"64 shuffled rows: output {position} {why}"
            return ""
    return "no made-up input runs alone"


@dataclass(slots=True)
class Outcome:
    """What became of the cases."""

    counts: Counter[str]
    reasons: Counter[str]
    wrong: list[str]
    batched: list[str]


def run(chosen: list[Any], repository: Path) -> Outcome:
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    wrong, batched = [], []
    for case in chosen:
        kind, why = verdict(case, repository)
        counts[kind] += 1
        if kind not in ("right", "wrong"):
            reasons[f"{kind}: {plainly(why)}"] += kind.startswith(("refused", "cannot"))
        if kind == "wrong":
            wrong.append(f"{case.name}: {why}")
        yes, why = wrongly_batched(case, repository)
        if yes and not why:
            batched.append(case.name)
        elif yes and "no made-up input" not in why:
            wrong.append(f"{case.name}: {why}")
    return Outcome(counts, +reasons, wrong, batched)


KINDS = {
    "NOT_IMPLEMENTED": "ONNX Runtime has no implementation of an operator for this type",
    "string_normalizer": "ONNX Runtime's StringNormalizer lacks the locale en_US.UTF-8 here",
    "cannot load the model": "ONNX Runtime does not know a type, operator or version of the graph",
    "no name for": "a type of tensor that the protocol has no name for",
    "is BF": "BF16 at the model's border, which ONNX Runtime does not give to numpy",
}


def plainly(why: str) -> str:
    """The kind of a reason: without the names and numbers of one model."""
    if re.search(r"is a (seq|optional|map)\(", why):
        return "a sequence, optional or map, which the protocol has no name for"
    for sign, kind in KINDS.items():
        if sign in why:
            return kind
    return re.sub(r"\d+|'[^']*'", "…", why.splitlines()[0].replace("|", "/"))[:160].strip()


def test_some_of_onnxs_models_are_right_or_refused(tmp_path: Path) -> None:
    found = run(some_cases(), tmp_path)
    assert found.counts["right"] > 20
    assert found.wrong == []


@pytest.mark.conformance
def test_all_of_onnxs_models_are_right_or_refused(tmp_path: Path) -> None:
    chosen = cases()
    found = run(chosen, tmp_path)
    batched = found.batched
    lines = [f"| {kind} | {number} |" for kind, number in sorted(found.counts.items())]
    reasons = [f"| {why} | {number} |" for why, number in found.reasons.most_common()]
    conformance.write_section(
        "ONNX's backend tests",
        f"{len(chosen)} models of the `onnx` package, loaded and asked as this server does.\n\n"
        "| | models |\n|---|---|\n" + "\n".join(lines) + "\n\n"
        "| refused, and why | models |\n|---|---|\n" + "\n".join(reasons) + "\n\n"
        f"With a first dimension of any size, {len(batched)} of them are batched, each tried with "
        "random rows alone and together, and with 64 shuffled rows: "
        + ", ".join(f"`{name}`" for name in sorted(batched)) + ".",
    )  # fmt: skip
    assert found.wrong == []
