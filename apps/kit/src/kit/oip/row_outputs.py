"""Whether a model's outputs are rows, so that an answer may be given row by row."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kit.oip.inputs import Spec
from kit.oip.tensors import Array


def in_rows(
    values: Mapping[str, Array],
    outputs: Collection[Spec],
    inputs: Collection[Spec],
    *,
    rows: int | None = None,
) -> bool:
    """Whether the first dimension of every output counts the request's rows.

    ``values`` are the outputs by name; ``outputs`` and ``inputs`` say how they are declared.
    ``rows`` is how many rows were asked for, where the model takes any number of them. An output
    that has a size of its own there (weights, or the positions of what was found) holds no rows,
    even where it is as long by chance.
    """
    lengths = {values[name].shape[0] if values[name].ndim else None for name in values}
    if None in lengths or len(lengths) != 1:
        return False
    if not inputs or not all(_any_number(spec) for spec in inputs):
        return True
    own = {spec.name for spec in outputs if spec.shape and spec.shape[0] > 1}
    return own.isdisjoint(values) and rows in (None, *lengths)


def _any_number(spec: Spec) -> bool:
    return bool(spec.shape) and spec.shape[0] < 0 and not getattr(spec, "free_rank", False)
