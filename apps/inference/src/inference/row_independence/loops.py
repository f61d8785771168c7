"""Values on their way through loops and branches of a graph."""

from __future__ import annotations

from inference.row_independence.rules.operators import unknown_dim
from inference.row_independence.values import FIXED, Dim, MixesError, Value, fixed, rows


def one_step(value: Value, axis: int) -> Value:
    """One step along ``axis``."""
    if value.shape is None:
        return FIXED
    rank = len(value.shape)
    axis = axis + rank if axis < 0 else axis
    if axis == value.axis:
        raise MixesError("it walks along the rows")
    shape = (*value.shape[:axis], *value.shape[axis + 1 :])
    if value.axis is None:
        return fixed(shape)
    return rows(shape, value.axis - (axis < value.axis))


def stacked(value: Value, axis: int) -> Value:
    """One of each round along a new ``axis``."""
    if value.reason is not None or value.shape is None:
        return value
    if value.counts:
        return Value(reason="it stacks how many rows there are")
    rank = len(value.shape) + 1
    axis = axis + rank if axis < 0 else axis
    shape = (*value.shape[:axis], unknown_dim(), *value.shape[axis:])
    if value.axis is None:
        return fixed(shape)
    return rows(shape, value.axis + (axis <= value.axis))


def join(one: Value, other: Value, widened: set[str] | None) -> Value:
    """What holds for both. With ``widened``, ``one`` is what held before a round of a loop."""
    for value in (one, other):
        if value.reason is not None:
            return value
    if (one.counts or other.counts) and one != other:
        return Value(reason="it depends on how many rows there are")
    if one.axis != other.axis:
        return Value(reason="it has rows here and none, or elsewhere, there")
    elements = one.elements if one.elements == other.elements else None
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        if one.axis is not None:
            return Value(reason="its rank changes")
        return FIXED
    shape: list[Dim] = []
    for place, (size, another) in enumerate(zip(one.shape, other.shape, strict=True)):
        if size == another or (place != one.axis and widened and set(size.symbols) & widened):
            shape.append(size)
        elif place == one.axis:
            return Value(reason="its rows change in number")
        else:
            shape.append(unknown_dim())
            if widened is not None:
                widened.update(shape[-1].symbols)
    return Value(tuple(shape), one.axis, elements)
