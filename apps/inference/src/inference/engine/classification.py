"""The classification extension: the largest values of an output instead of the output.

Source: Triton, "Classification Extension". An element of the answer is ``value:index`` or, where
``model.json`` has a label for the index, ``value:index:label``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from inference.errors import BadRequest
from kit.oip.datatypes import of_array
from kit.oip.integers import integer_of
from kit.oip.tensors import Array


def class_count(value: object, output: str) -> int:
    """The parameter ``classification`` of a requested output; 0 means that it is not asked for."""
    count = integer_of(value)
    if count is None or not 0 <= count < 2**31:
        raise BadRequest(
            f"output {output!r}: parameters.classification is {str(value)[:50]!r}: it must be the "
            "number of classes wanted, an integer"
        )
    return count


def classify(
    outputs: Mapping[str, Array], counts: Mapping[str, int], labels: Sequence[str], *, rows: bool
) -> dict[str, Array]:
    """The outputs, those named in ``counts`` replaced by their largest values.

    With ``rows`` the first dimension of an output counts rows, each with classes of its own, and
    the result has shape [rows, k]; without, it has shape [k]. BadRequest for text.
    """
    return {
        name: _largest(name, values, counts[name], labels, rows=rows) if name in counts else values
        for name, values in outputs.items()
    }


def _largest(name: str, values: Array, count: int, labels: Sequence[str], *, rows: bool) -> Array:
    if values.dtype.kind not in "biuf":
        raise BadRequest(
            f"output {name!r} is {of_array(values.dtype)}: only numbers can be classified"
        )
    by_row = rows and values.ndim > 0
    width = math.prod(values.shape[1:]) if by_row else values.size
    table = values.reshape(values.shape[0] if by_row else 1, width)
    count = min(count, width)
    found = np.empty((len(table), count), dtype=object)
    for position, row in enumerate(table):
        for place, index in enumerate(_descending(row)[:count]):
            label = f":{labels[index]}" if index < len(labels) else ""
            found[position, place] = f"{row[index]!s}:{index}{label}"
    return found if by_row else found[0]


def _descending(row: Array) -> Array:
    """Positions by value, largest first, the earlier of equal ones first and NaN last."""
    if row.dtype.kind == "f":
        row = np.where(np.isnan(row), -np.inf, row)
    backwards = np.argsort(row[::-1], kind="stable")[::-1]
    last = len(row) - 1
    positions: Array = last - backwards
    return positions
