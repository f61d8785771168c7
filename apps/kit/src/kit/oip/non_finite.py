"""NaN and infinities in answers: JSON has no word for them, so what is written is said."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from kit.oip.tensors import Array

Policy = Literal["null", "string", "error"]
"""What JSON holds in their place: null, the texts NaN, Infinity and -Infinity, or no answer."""

HEADER = b"x-slipway-non-finite"
"""How many values of a JSON answer are NaN or infinite; absent where none is."""


def count_of(values: Array) -> int:
    """How many of them JSON cannot say."""
    if values.dtype.kind != "f":
        return 0
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def replaced(values: Array, policy: Policy) -> Array:
    """The values as objects, with what JSON cannot say replaced; the array itself has none."""
    if count_of(values) == 0:
        return values
    result = values.astype(object)
    result[~np.isfinite(values)] = None
    if policy == "string":
        result[np.isnan(values)] = "NaN"
        result[np.isposinf(values)] = "Infinity"
        result[np.isneginf(values)] = "-Infinity"
    return result


def message(count: int) -> str:
    """What the error says to the caller under the policy ``error``."""
    return (
        f"the model's answer holds {count} values that are NaN or infinite, which JSON cannot "
        "say: ask for binary outputs, or for another non_finite_outputs of the service"
    )


def plain(values: Array, policy: Policy) -> Any:
    """The values as nested lists (or one value) for JSON."""
    return replaced(values, policy).tolist()
