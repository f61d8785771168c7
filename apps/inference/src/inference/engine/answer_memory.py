"""How much memory an answer takes while it is written."""

from __future__ import annotations

from kit.oip.tensors import Array

TEXT_BYTES = 60
"""What an element of a tensor of texts takes beside its characters."""
JSON_BYTES = {1: 12, 2: 28, 4: 28, 8: 48}
"""What a number takes in an answer of JSON, its text in two copies, by the bytes it has."""
BINARY_COPIES = 3
"""Times that a tensor is in memory while it is written as it is, beside the model's own copy."""


def memory_of(values: Array, *, binary: bool) -> int:
    """Bytes that an output takes while it is written."""
    if values.dtype.kind == "O":
        return TEXT_BYTES * values.size
    return BINARY_COPIES * values.nbytes if binary else JSON_BYTES[values.itemsize] * values.size
