"""What an operator does to rows: the registry, its helpers, and element-wise operators."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.row_independence.graph import Node, Tensor
from inference.row_independence.values import (
    ONE,
    Dim,
    MixesError,
    Shape,
    Value,
    fixed,
    integers,
    rows,
)

ML = "ai.onnx.ml"
MICROSOFT = "com.microsoft"

_numbers = itertools.count()


def unknown_dim() -> Dim:
    """A size that is not known, but that all requests of one batch have in common."""
    return Dim(1, (f"?{next(_numbers)}",))


@dataclass(slots=True)
class Call:
    """One node with what is known of its inputs. An optional input that is absent is None."""

    node: Node
    opset: int
    inputs: list[Value | None]
    attributes: dict[str, Any] = field(default_factory=dict)

    def given(self, position: int) -> bool:
        """Whether that input is there."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def optional(self, position: int) -> Value | None:
        """That input, or None where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else None

    def value(self, position: int) -> Value:
        """That input; MixesError where it is absent."""
        found = self.optional(position)
        if found is None:
            raise MixesError(f"its input {position} is absent")
        return found

    def data(self, position: int = 0) -> Value:
        """That input, whose contents must not depend on the number of rows."""
        found = self.value(position)
        if found.counts:
            raise MixesError("it computes with how many rows there are")
        return found

    def fixed(self, position: int) -> Value:
        """That input, which must be the same in a batch as alone."""
        found = self.value(position)
        if not found.fixed:
            raise MixesError(f"its input {position} ({self.node.inputs[position]!r}) has rows")
        return found

    def all_fixed(self, start: int) -> None:
        """Every input from ``start`` on is absent or the same in a batch as alone."""
        for position in range(start, len(self.inputs)):
            if self.given(position):
                self.fixed(position)

    def rowed(self, position: int = 0) -> tuple[Shape, int]:
        """Shape and axis of that input, which must have rows."""
        found = self.data(position)
        if found.axis is None or found.shape is None:
            raise MixesError(f"only inputs other than {position} have rows")
        return found.shape, found.axis

    def number(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.attributes.get(name, default)
        if not isinstance(found, int):
            raise MixesError(f"its attribute {name} is no number")
        return found

    def list_of(self, name: str) -> list[Any] | None:
        """A list attribute, or None where it is absent."""
        found = self.attributes.get(name)
        if found is not None and not isinstance(found, list):
            raise MixesError(f"its attribute {name} is no list")
        return found

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        found = self.attributes.get(name, default.encode())
        if not isinstance(found, bytes):
            raise MixesError(f"its attribute {name} is no text")
        return found.decode("utf-8", "replace")

    @property
    def outputs(self) -> int:
        """How many outputs are used."""
        return sum(bool(name) for name in self.node.outputs)


Handler = Callable[[Call], Value | list[Value]]
HANDLERS: dict[tuple[str, str], Handler] = {}


def operator(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Register what the operators of these names do to rows."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[domain, name] = handler
        return handler

    return register


def axis_in(axis: int, rank: int) -> int:
    """``axis`` counted from the front."""
    if not -rank <= axis < rank:
        raise MixesError(f"axis {axis} is none of {rank}")
    return axis % rank


def axes_of(call: Call, position: int, rank: int, *, name: str = "axes") -> list[int] | None:
    """The axes from an attribute or an input; None where there are neither."""
    listed = call.list_of(name)
    if listed is None:
        if not call.given(position):
            return None
        known = integers(call.fixed(position))
        if known is None:
            raise MixesError(f"its {name} are not constants")
        listed = list(known)
    return [axis_in(axis, rank) for axis in listed]


def broadcast(values: Sequence[Value]) -> Value:
    """The result of an element-wise operator on these, as far as its shape and rows go.

    A fixed tensor that has another size than 1 where the rows are would fit one number of
    rows alone, and rows at two axes would meet.
    """
    if any(value.counts for value in values):
        raise MixesError("it computes with how many rows there are")
    rowed = [value for value in values if value.axis is not None]
    if any(value.shape is None for value in values):
        if rowed:
            raise MixesError("a tensor of unknown rank meets the rows")
        return fixed()
    rank = max((len(value.shape or ()) for value in values), default=0)
    padded = [(ONE,) * (rank - len(value.shape or ())) + (value.shape or ()) for value in values]
    if not rowed:
        return fixed([_together(dims) for dims in zip(*padded, strict=True)])
    axes = {value.axis + rank - len(value.shape or ()) for value in rowed if value.axis is not None}
    if len(axes) != 1:
        raise MixesError("rows are at different axes of its inputs")
    (place,) = axes
    sizes = {shape[place] for value, shape in zip(values, padded, strict=True) if value in rowed}
    if len(sizes) != 1:
        raise MixesError("its inputs have different numbers of elements for each row")
    for value, shape in zip(values, padded, strict=True):
        if value.axis is None and shape[place] != ONE:
            raise MixesError("a tensor of its own size meets the rows along their axis")
    (size,) = sizes
    result = [
        size if position == place else _together(dims)
        for position, dims in enumerate(zip(*padded, strict=True))
    ]
    return rows(result, place)


def _together(dims: Iterable[Dim]) -> Dim:
    others = {dim for dim in dims if dim != ONE}
    if not others:
        return ONE
    numbers = {dim.known for dim in others} - {None}
    if len(others) == 1:
        return others.pop()
    if len(numbers) == 1:  # the rest must be it, or 1
        return Dim(numbers.pop() or 0)
    return unknown_dim()


def same(call: Call) -> Value:
    """One value in, the same shape out, each element by itself; other inputs are fixed."""
    value = call.data()
    call.all_fixed(1)
    return Value(value.shape, value.axis)


def constant(tensor: Tensor) -> Value:
    """A weight: small ones with their contents."""
    shape = tuple(Dim(size) for size in tensor.dims)
    if tensor.numbers is None or len(shape) > 1:
        return fixed(shape)
    if tensor.integral:
        return fixed(shape, [Dim(int(number)) for number in tensor.numbers])
    return fixed(shape, tensor.numbers)


def is_single(value: Value) -> bool:
    """Whether it is one number."""
    return value.shape is not None and all(dim == ONE for dim in value.shape)


def known_shape(value: Value) -> Shape | None:
    """Its shape where it is a fixed or rowed tensor whose contents are not counts."""
    if value.counts:
        raise MixesError("it computes with how many rows there are")
    return value.shape
