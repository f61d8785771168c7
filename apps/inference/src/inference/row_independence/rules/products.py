"""Operators that multiply matrices."""

from __future__ import annotations

from inference.row_independence.rules.operators import (
    MICROSOFT,
    Call,
    broadcast,
    is_single,
    operator,
    unknown_dim,
)
from inference.row_independence.values import (
    ONE,
    Dim,
    MixesError,
    Shape,
    Value,
    fixed,
    rows,
)


@operator("MatMul")
def matmul(call: Call) -> Value:
    """Each row by a matrix, or each row's matrices by one another."""
    return _product(call.data(0), call.data(1))


@operator("FusedMatMul", domain=MICROSOFT)
def fused_matmul(call: Call) -> Value:
    """As MatMul, where nothing is turned."""
    if any(call.number(name, 0) for name in ("transA", "transB", "transBatchA", "transBatchB")):
        raise MixesError("it transposes what it multiplies")
    return _product(call.data(0), call.data(1))


@operator("MatMulInteger")
def matmul_integer(call: Call) -> Value:
    """With a zero point that is the same in a batch as alone."""
    call.all_fixed(2)
    if call.given(2) and not is_single(call.fixed(2)):
        raise MixesError("its zero point is one for every row")
    if call.given(3) and call.data(1).axis is not None and not is_single(call.fixed(3)):
        raise MixesError("its second zero point is one for every row")
    return _product(call.data(0), call.data(1))


@operator("QLinearMatMul")
def qlinear_matmul(call: Call) -> Value:
    """With scales that are the same in a batch as alone."""
    for position in (1, 2, 4, 5, 6, 7):
        call.fixed(position)
    if not all(is_single(call.fixed(position)) for position in (1, 2, 6, 7)):
        raise MixesError("its scale is one for every row")
    if call.data(3).axis is not None and not all(is_single(call.fixed(p)) for p in (4, 5)):
        raise MixesError("its second scale is one for every row")
    return _product(call.data(0), call.data(3))


def _product(one: Value, other: Value) -> Value:
    if one.shape is None or other.shape is None:
        if one.axis is not None or other.axis is not None:
            raise MixesError("a tensor of unknown rank meets the rows")
        return fixed()
    if not one.shape or not other.shape:
        raise MixesError("it multiplies a scalar")
    left, right = len(one.shape), len(other.shape)
    if one.axis is not None and one.axis == left - 1:
        raise MixesError("it sums over the rows")
    if other.axis is not None and other.axis == max(right - 2, 0) and right != 0:
        raise MixesError("it sums over the rows")
    # as matrices; a vector is one row or one column, whose dimension goes away afterwards
    first = one.shape if left > 1 else (ONE, *one.shape)
    second = other.shape if right > 1 else (*other.shape, ONE)
    batch_one, batch_two = _leading(first, one.axis), _leading(second, other.axis)
    row_of = one.axis is not None and batch_one.axis is None  # the left matrix's own rows
    column_of = other.axis is not None and batch_two.axis is None
    if (row_of or column_of) and (one.axis is not None and other.axis is not None):
        raise MixesError("it multiplies rows by rows")
    batch = broadcast([batch_one, batch_two])
    if batch.shape is None:
        raise MixesError("a tensor of unknown rank meets the rows")
    shape = [*batch.shape, first[-2], second[-1]]
    axis = batch.axis
    if row_of:
        axis = len(shape) - 2
    if column_of:
        axis = len(shape) - 1
    gone = ([len(shape) - 2] if left == 1 else []) + ([len(shape) - 1] if right == 1 else [])
    if axis is None:
        return fixed([dim for place, dim in enumerate(shape) if place not in gone])
    kept = [place for place in range(len(shape)) if place not in gone]
    return rows([shape[place] for place in kept], kept.index(axis))


def _leading(shape: Shape, axis: int | None) -> Value:
    """What comes before the matrices, with the rows if they are there."""
    return Value(shape[:-2], axis if axis is not None and axis < len(shape) - 2 else None)


@operator("Gemm")
def gemm(call: Call) -> Value:
    """Each row by a matrix."""
    one, other = call.data(0), call.data(1)
    if one.axis is None or other.axis is not None:
        raise MixesError("its second matrix has rows")
    if one.rank != 2 or other.rank != 2 or one.shape is None or other.shape is None:
        raise MixesError("its inputs are no matrices")
    turned = bool(call.number("transA", 0))
    if one.axis != (1 if turned else 0):
        raise MixesError("it sums over the rows")
    columns = other.shape[0 if call.number("transB", 0) else 1]
    result = rows([one.shape[one.axis], columns], 0)
    if call.given(2):
        total = broadcast([result, call.data(2)])
        if total.axis != 0 or total.rank != 2:
            raise MixesError("its third input has more dimensions than the result")
    return result


@operator("Einsum")
def einsum(call: Call) -> Value:
    """By letters: the rows' letter is in the result, and stands for nothing else."""
    equation = call.text("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    if not arrow or "." in equation or len(letters) != len(call.inputs):
        raise MixesError(f"its equation {equation!r} is not followed")
    letter: str | None = None
    size: Dim | None = None
    sizes: dict[str, set[Dim]] = {}
    for position, term in enumerate(letters):
        value = call.data(position)
        if value.shape is None or len(value.shape) != len(term):
            raise MixesError("a tensor of unknown rank meets the rows")
        for name, dim in zip(term, value.shape, strict=True):
            sizes.setdefault(name, set()).add(dim)
        if value.axis is None:
            continue
        if letter not in (None, term[value.axis]) or size not in (None, value.shape[value.axis]):
            raise MixesError("rows meet rows")
        letter, size = term[value.axis], value.shape[value.axis]
        if term.count(letter) != 1:
            raise MixesError("rows meet rows")
    if letter is None or size is None:
        raise MixesError("none of its inputs has rows")
    if result.count(letter) != 1:
        raise MixesError("it sums over the rows")
    if sizes[letter] != {size}:
        raise MixesError("a tensor of its own size meets the rows along their axis")
    shape = [next(iter(sizes[n])) if len(sizes.get(n, ())) == 1 else unknown_dim() for n in result]
    return rows(shape, result.index(letter))


@operator("Det")
def determinant(call: Call) -> Value:
    """Of each row's matrix."""
    shape, axis = call.rowed()
    if axis >= len(shape) - 2:
        raise MixesError("the rows are a matrix's")
    return rows(shape[:-2], axis)
