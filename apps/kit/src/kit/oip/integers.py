"""Integers in JSON: 64 and 64.0 are the same number.

Source: JSON Schema 2020-12, "any number with a zero fractional part" is an integer; writers in
languages whose numbers are all floating point send both.
"""

from __future__ import annotations

EXACT = 2**53
"""Past it a floating-point number no longer says which integer was meant."""


def integer_of(value: object) -> int | None:
    """A JSON number without a fraction as an integer; None for every other value, booleans too."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= EXACT:
        return int(value)
    return None


def shape_of(value: object) -> list[int] | None:
    """A JSON list of integers, each 0 or more; None for every other value."""
    if type(value) is not list:
        return None
    for size in value:
        if type(size) is not int or size < 0:
            break
    else:
        return value  # the usual case, and there is one for every input of every request
    sizes = [integer_of(size) for size in value]
    return [size for size in sizes if size is not None] if all(map(_is_size, sizes)) else None


def _is_size(size: int | None) -> bool:
    return size is not None and size >= 0
