"""Operators that take each element by itself, and arithmetic with numbers that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from inference.row_independence.graph import Tensor
from inference.row_independence.rules.operators import (
    MICROSOFT,
    ML,
    Call,
    broadcast,
    constant,
    operator,
    same,
)
from inference.row_independence.values import (
    Dim,
    Element,
    MixesError,
    Value,
    fixed,
)


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
