"""Runs a model on rows together and alone, and compares: the proof beside the graph's.

A rule of :mod:`inference.row_independence.analysis` may be wrong, or ONNX Runtime may do something
else than the standard says. So rows are drawn at random, also large ones (a Clip hides
what happens to small ones), and run alone, then together in several numbers, orders and positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from inference.errors import InferenceError
from inference.repository.manifest import TensorSpec
from kit.oip import datatypes
from kit.oip.tensors import Array

Feeds = Mapping[str, Array]

POOL = 6
"""Rows drawn for each try."""

ORDERS = ((0, 1), (3, 0, 5), (0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (2, 2, 4, 2))
SIZES = (3, 2, 1, 4, 5, 8, 16, 32, 28, 64, 224)
"""What is tried for dimensions of any size other than the rows'."""

_SCALES = (1.0, 1000.0)
_LIMITS = (1000, 100, 8, 2, 1)
_WORDS = ("a", "the cat sat", "0", "1", "Seoul, 서울", "", "true", "x" * 40)
MOST_ELEMENTS = 1 << 20
"""Of a row of one input where its sizes are made up here, so that trying costs little memory."""

_TOLERANCE = 1e-3
_COARSE = 2e-2
"""Of the largest number, for half precision and for models that round to steps."""


class Runner(Protocol):
    """What is tried."""

    inputs: tuple[TensorSpec, ...]
    output_names: tuple[str, ...]

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[Array]: ...


def difference(
    model: Runner, samples: Sequence[Feeds] = (), *, coarse: bool = False, sizes: int = 2
) -> str:
    """What differs between rows together and alone; empty where nothing does.

    ``samples`` are real inputs, whose rows are tried too. ``coarse`` allows for steps of
    quantization, ``sizes`` says how many other lengths are tried.
    """
    generator = np.random.default_rng(20_240_229)
    tried = 0
    for rows, alone in _pools(model, samples, generator, sizes):
        tried += 1
        for order in ORDERS:
            together = {
                name: np.concatenate([rows[number][name] for number in order]) for name in rows[0]
            }
            where = f"row {order[0]} with {len(order) - 1} others"
            try:
                answers = model.run(None, together)
            except InferenceError as error:
                return f"{len(order)} rows together fail: {error.message}"
            for position, answer in enumerate(answers):
                expected = [alone[number][position] for number in order]
                if why := _unlike(expected, answer, coarse=coarse):
                    return f"output {model.output_names[position]!r} of {where} {why}"
    if not tried:
        return "no made-up input runs alone: put samples into model.json"
    return ""


def _pools(
    model: Runner, samples: Sequence[Feeds], generator: np.random.Generator, sizes: int
) -> Iterator[tuple[list[dict[str, Array]], list[list[Array]]]]:
    """Rows, and what each gives alone."""
    for sample in samples:
        some = [{name: values[i : i + 1] for name, values in sample.items()}
                for i in range(min(len(next(iter(sample.values()))), POOL))]  # fmt: skip
        rows = (some * POOL)[:POOL]
        # each column drawn from its own sample would be a row that nobody sends
        if (alone := _alone(model, rows)) is not None:
            yield rows, alone
    free = any(size < 0 for spec in model.inputs for size in spec.shape[1:])
    found = 0
    for size in SIZES if free else SIZES[:1]:
        if free and _elements(model, size) > MOST_ELEMENTS:
            continue
        ran = False
        for scale in _SCALES:
            for limit in _LIMITS:
                rows = [_row(model, size, scale, limit, generator) for _ in range(POOL)]
                if (alone := _alone(model, rows)) is not None:
                    ran = True
                    yield rows, alone
                    break
        found += ran
        if found >= sizes:
            return


def _elements(model: Runner, size: int) -> int:
    """Of the largest input's row, where dimensions of any size are ``size``."""
    return max(
        math.prod(size if length < 0 else length for length in spec.shape[1:])
        for spec in model.inputs
    )


def _row(
    model: Runner, size: int, scale: float, limit: int, generator: np.random.Generator
) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for spec in model.inputs:
        shape = [1, *(size if length < 0 else length for length in spec.shape[1:])]
        feeds[spec.name] = _random(spec.datatype, shape, scale, limit, generator)
    return feeds


def _random(
    datatype: str, shape: list[int], scale: float, limit: int, generator: np.random.Generator
) -> Array:
    if datatype == "BYTES":
        return generator.choice(np.array(_WORDS, dtype=object), shape)
    dtype = datatypes.NUMPY[datatype]
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "f":
        return (generator.standard_normal(shape) * scale).astype(dtype)
    return generator.integers(0, min(limit, np.iinfo(dtype).max), shape).astype(dtype)


def _alone(model: Runner, rows: list[dict[str, Array]]) -> list[list[Array]] | None:
    """What each row gives by itself, or None where one does not run."""
    try:
        # copied out of the memory for runs, which all of them may fill
        return [[np.array(part) for part in model.run(None, row)] for row in rows]
    except InferenceError:
        return None


def _unlike(expected: list[Array], answer: Any, *, coarse: bool) -> str:
    if any(not isinstance(part, np.ndarray) for part in (*expected, answer)):
        return "is no tensor"
    if any(part.ndim == 0 or part.shape[0] != 1 for part in expected):
        return f"has shape {list(expected[0].shape)} alone, not one row"
    if len({part.shape for part in expected}) != 1:
        return "changes its shape with the numbers in it"
    wanted = np.concatenate(expected)
    if wanted.shape != answer.shape:
        return f"has shape {list(answer.shape)}, alone they make {list(wanted.shape)}"
    if wanted.dtype.kind != "f":
        return "" if np.array_equal(wanted, answer) else "is another than alone"
    share = _COARSE if coarse or wanted.dtype.itemsize == 2 else _TOLERANCE
    finite = wanted[np.isfinite(wanted)].astype(np.float64)
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    same = np.allclose(wanted, answer, rtol=share, atol=share * largest, equal_nan=True)
    return "" if same else "is another than alone"
