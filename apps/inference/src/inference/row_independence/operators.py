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
    Element,
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
    places = {
        value.axis + rank - len(value.shape or ()) for value in rowed if value.axis is not None
    }
    if len(places) != 1:
        raise MixesError("rows are at different axes of its inputs")
    (place,) = places
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


@operator(
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "RegexFullMatch", "Relu", "Round",
    "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish",
    "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
def unary(call: Call) -> Value:
    """Each element by itself."""
    return same(call)


for _name in ("Binarizer", "CategoryMapper", "LabelEncoder"):
    operator(_name, domain=ML)(unary)
for _name in ("Gelu", "QuickGelu"):
    operator(_name, domain=MICROSOFT)(unary)


@operator("Clip")
def clip(call: Call) -> Value:
    """Limits are scalars, and the same in a batch as alone."""
    for position in (1, 2):
        if call.given(position) and call.fixed(position).rank not in (0, 1, None):
            raise MixesError("its limits are no scalars")
    return same(call)


@operator(
    "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "And", "Or", "Xor", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Pow", "PRelu",
    "StringConcat", "Sum",
)  # fmt: skip
def elementwise(call: Call) -> Value:
    """Element by element, with broadcasting."""
    return broadcast([call.data(position) for position in range(len(call.inputs))])


for _name in ("BiasGelu", "FastGelu"):
    operator(_name, domain=MICROSOFT)(elementwise)


@operator("Identity")
def identity(call: Call) -> Value:
    """The same tensor."""
    return call.value(0)


@operator("CastLike")
def cast_like(call: Call) -> Value:
    """The first input; of the second only the type counts."""
    value = call.data()
    return Value(value.shape, value.axis)


@operator("Cast")
def cast(call: Call) -> Value:
    """Each element by itself; counts stay known as 32 or 64-bit integers."""
    value = call.value(0)
    if call.number("to", 0) in (6, 7) and _all_dims(value.elements):
        return value
    if value.counts:
        raise MixesError("it computes with how many rows there are")
    return Value(value.shape, value.axis)


def _all_dims(elements: tuple[Element, ...] | None) -> bool:
    return elements is not None and all(isinstance(element, Dim) for element in elements)


@operator("Add", "Sub", "Mul", "Div", "Equal")
def arithmetic(call: Call) -> Value:
    """Element by element; what is known of small integers stays known."""
    one, other = call.value(0), call.value(1)
    known = _contents([one, other], _ARITHMETIC[call.node.operator])
    if known is None or any(value.axis is not None for value in (one, other)):
        return broadcast([one, other])
    if any(isinstance(e, _Impossible) for e in known):
        raise MixesError("it computes with how many rows there are")
    shape = broadcast([Value(one.shape), Value(other.shape)]).shape
    return Value(shape, None, tuple(known))


@operator("Where")
def where(call: Call) -> Value:
    """Element by element; what is known of small integers stays known."""
    values = [call.value(position) for position in range(3)]
    known = _contents(values, _chosen)
    if known is None or any(value.axis is not None for value in values):
        return broadcast(values)
    if any(isinstance(e, _Impossible) for e in known):
        raise MixesError("it computes with how many rows there are")
    shape = broadcast([Value(value.shape) for value in values]).shape
    return Value(shape, None, tuple(known))


class _Impossible:
    """Stands for an element that depends on the number of rows in an unknown way."""


def _contents(
    values: Sequence[Value], combine: Callable[..., Element | _Impossible]
) -> list[Any] | None:
    """Contents of an element-wise result, where those of all inputs are known."""
    if any(value.elements is None or (value.rank or 0) > 1 for value in values):
        return None
    longest = max(len(value.elements or ()) for value in values)
    columns = []
    for value in values:
        elements = value.elements or ()
        if len(elements) not in (1, longest):
            return None
        columns.append(elements * longest if len(elements) == 1 else elements)
    return [combine(*column) for column in zip(*columns, strict=True)]


def _unless_counts(*elements: Element) -> Element | _Impossible:
    counts = any(isinstance(element, Dim) and element.counts_rows for element in elements)
    return _Impossible() if counts else None


def _add(one: Element, other: Element, sign: int = 1) -> Element | _Impossible:
    if isinstance(one, Dim) and isinstance(other, Dim):
        if other.factor == 0:
            return one
        if one.factor == 0 and sign == 1:
            return other
        if one.known is not None and other.known is not None:
            return Dim(one.known + sign * other.known)
        if one.symbols == other.symbols:
            factor = one.factor + sign * other.factor
            return Dim(factor, one.symbols if factor else ())
    return _unless_counts(one, other)


def _multiply(one: Element, other: Element) -> Element | _Impossible:
    if isinstance(one, Dim) and isinstance(other, Dim):
        return one * other
    return _unless_counts(one, other)


def _divide(one: Element, other: Element) -> Element | _Impossible:
    if isinstance(one, Dim) and isinstance(other, Dim) and other.factor:
        exact = one.over(other)
        if exact is not None:
            return exact
    return _unless_counts(one, other)


def _equal(one: Element, other: Element) -> Element | _Impossible:
    if isinstance(one, Dim) and isinstance(other, Dim):
        if one == other:
            return Dim(1)
        if one.known is not None and other.known is not None:
            return Dim(0)
        # sizes are not negative: rows never equal -1
        if (one.factor > 0 and other.symbols == () and other.factor < 0) or (
            other.factor > 0 and one.symbols == () and one.factor < 0
        ):
            return Dim(0)
    return _unless_counts(one, other)


def _chosen(condition: Element, one: Element, other: Element) -> Element | _Impossible:
    if isinstance(condition, Dim) and condition.known is not None:
        return one if condition.known else other
    if one == other and one is not None:
        return one
    return _unless_counts(condition, one, other)


_ARITHMETIC: dict[str, Callable[..., Element | _Impossible]] = {
    "Add": _add,
    "Sub": lambda one, other: _add(one, other, -1),
    "Mul": _multiply,
    "Div": _divide,
    "Equal": _equal,
}


def constant(tensor: Tensor) -> Value:
    """A weight: small ones with their contents."""
    shape = tuple(Dim(size) for size in tensor.dims)
    if tensor.numbers is None or len(shape) > 1:
        return fixed(shape)
    if tensor.whole:
        return fixed(shape, [Dim(int(number)) for number in tensor.numbers])
    return fixed(shape, tensor.numbers)


@operator("Constant")
def constant_node(call: Call) -> Value:
    """A tensor that stands in the model."""
    found = call.attributes
    if isinstance(found.get("value"), Tensor):
        return constant(found["value"])
    if isinstance(found.get("value_int"), int):
        return fixed((), [Dim(found["value_int"])])
    if isinstance(found.get("value_ints"), list):
        listed = found["value_ints"]
        return fixed([Dim(len(listed))], [Dim(number) for number in listed])
    if isinstance(found.get("value_float"), float):
        return fixed((), [found["value_float"]])
    if isinstance(found.get("value_floats"), list):
        return fixed([Dim(len(found["value_floats"]))], found["value_floats"])
    return fixed()
