"""What is known of a tensor before the model runs: its shape, and where its rows are.

A batch puts requests together along the first dimension of every input. A tensor inside the
model is one of these:

- *fixed*: the same for the batch as for each request alone (weights, and what follows from
  them and from the dimensions that requests of one batch have in common);
- *rows*: along one axis, what the requests would have given alone, one after the other. A row
  may have become a block of several (batch times heads): then it has that many of them there;
- *counts*: a shape or an index, some of whose elements say how many rows there are;
- *mixed*: none of these, or not provable; the reason says which operator did it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ROWS = "rows"
"""The symbol that stands for the number of rows."""


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that is an integer times symbols: 12 times rows times length.

    Symbols other than ``ROWS`` are sizes that all requests of one batch have in common. Two
    sizes that compare equal are equal in every run; two that do not may still be.
    """

    factor: int
    symbols: tuple[str, ...] = ()

    @property
    def known(self) -> int | None:
        """The number, where it is one."""
        return None if self.symbols else self.factor

    @property
    def counts_rows(self) -> bool:
        """Whether it grows with the number of rows."""
        return ROWS in self.symbols

    def __mul__(self, other: Dim) -> Dim:
        if self.factor * other.factor == 0:
            return Dim(0)
        return Dim(self.factor * other.factor, tuple(sorted(self.symbols + other.symbols)))

    def over(self, other: Dim) -> Dim | None:
        """The exact quotient, or None where it is not known to be an integer."""
        if other.factor == 0 or self.factor % other.factor:
            return None
        left = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in left:
                return None
            left.remove(symbol)
        return Dim(self.factor // other.factor, tuple(left))


ONE = Dim(1)
N = Dim(1, (ROWS,))

Shape = tuple[Dim, ...]
Element = Dim | float | None


def product(dims: Iterable[Dim]) -> Dim:
    """All of them multiplied; 1 for none."""
    result = ONE
    for dim in dims:
        result *= dim
    return result


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor. ``shape`` None: even its rank is not known (fixed tensors only).

    ``axis`` is where its rows are, None for fixed ones. ``elements`` are its contents in
    row-major order where they are small and known; one that is None is fixed but not known.
    """

    shape: Shape | None = None
    axis: int | None = None
    elements: tuple[Element, ...] | None = None
    reason: str | None = None

    @property
    def mixed(self) -> bool:
        """Whether its rows may have met."""
        return self.reason is not None

    @property
    def counts(self) -> bool:
        """Whether its contents depend on the number of rows."""
        return any(isinstance(e, Dim) and e.counts_rows for e in self.elements or ())

    @property
    def fixed(self) -> bool:
        """Whether it is the same in a batch as alone."""
        return not self.mixed and self.axis is None and not self.counts

    @property
    def rank(self) -> int | None:
        """The number of dimensions."""
        return None if self.shape is None else len(self.shape)


FIXED = Value()


class MixesError(Exception):
    """The operator lets rows meet, or is not known not to; the message says how."""


def rows(shape: Sequence[Dim], axis: int) -> Value:
    """A tensor with rows along ``axis``; no other dimension may depend on their number."""
    if any(dim.counts_rows != (place == axis) for place, dim in enumerate(shape)):
        raise MixesError("more than one dimension depends on how many rows there are")
    if shape[axis].symbols.count(ROWS) != 1:
        raise MixesError("a dimension grows with the square of the rows")
    return Value(tuple(shape), axis)


def fixed(shape: Sequence[Dim] | None = None, elements: Sequence[Element] | None = None) -> Value:
    """A tensor that is the same in a batch as alone."""
    if any(dim.counts_rows for dim in shape or ()):
        raise MixesError("its shape depends on how many rows there are")
    return Value(
        None if shape is None else tuple(shape), None, None if elements is None else tuple(elements)
    )


def integers(value: Value | None) -> tuple[int, ...] | None:
    """Its contents where each is a known integer."""
    if value is None or value.elements is None:
        return None
    found: list[int] = []
    for element in value.elements:
        if not isinstance(element, Dim) or element.known is None:
            return None
        found.append(element.known)
    return tuple(found)
