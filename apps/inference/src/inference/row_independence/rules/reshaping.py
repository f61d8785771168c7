"""Operators that change the shape: where the rows are afterwards."""

from __future__ import annotations

from typing import cast

from inference.row_independence.graph import Tensor
from inference.row_independence.rules.operators import (
    Call,
    axes_of,
    axis_in,
    broadcast,
    constant,
    known_shape,
    operator,
    unknown_dim,
)
from inference.row_independence.values import (
    ONE,
    Dim,
    MixesError,
    N,
    Shape,
    Value,
    fixed,
    integers,
    product,
    rows,
)


@operator("Shape")
def shape_of(call: Call) -> Value:
    """The dimensions as contents."""
    shape = call.value(0).shape
    if shape is None:
        return fixed()
    rank = len(shape)
    start, end = call.number("start", 0), call.number("end", rank)
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, 0), rank)
    kept = shape[start:end]
    return Value((Dim(len(kept)),), None, kept)


@operator("Size")
def size_of(call: Call) -> Value:
    """The number of elements as contents."""
    shape = call.value(0).shape
    return fixed(()) if shape is None else Value((), None, (product(shape),))


@operator("Reshape")
def reshape(call: Call) -> Value:
    """The rows stay together where what comes before them stays as large as it was."""
    value, wanted = call.value(0), call.value(1)
    if wanted.axis is not None:
        raise MixesError("its shape is computed from the data")
    target = wanted.elements
    if value.elements is not None and (value.rank or 0) <= 1:
        sizes = integers(wanted)
        if sizes is not None and len(sizes) <= 1:
            count = Dim(len(value.elements))
            return Value((count,) if sizes else (), None, value.elements)
    shape = known_shape(value)
    if target is None or any(not isinstance(size, Dim) for size in target):
        if value.axis is not None or wanted.counts:
            raise MixesError("its shape is not known")
        rank = wanted.shape[0].known if wanted.shape else None
        return fixed(None if rank is None else [unknown_dim() for _ in range(rank)])
    sizes_ = _resolve(cast("tuple[Dim, ...]", target), shape, copy=not call.number("allowzero", 0))
    if value.axis is None:
        return fixed(sizes_)
    return _regroup(cast("Shape", shape), value.axis, sizes_)


def _resolve(target: tuple[Dim, ...], shape: Shape | None, *, copy: bool) -> list[Dim]:
    """The target with 0 (take the input's) and -1 (what is left) replaced."""
    sizes: list[Dim] = []
    for place, size in enumerate(target):
        if size.known == 0 and copy:
            if shape is None:
                sizes.append(unknown_dim())
                continue
            if place >= len(shape):
                raise MixesError("its shape copies a dimension that is not there")
            sizes.append(shape[place])
        else:
            sizes.append(size)
    free = [place for place, size in enumerate(sizes) if size.factor < 0]
    if not free:
        return sizes
    if len(free) > 1 or sizes[free[0]] != Dim(-1):
        raise MixesError("its shape has several free dimensions")
    if shape is None:
        sizes[free[0]] = unknown_dim()
        return sizes
    rest = product(size for size in sizes if size.factor >= 0)
    left = product(shape).over(rest)
    if left is None:
        if rest.counts_rows == product(shape).counts_rows:
            left = unknown_dim()  # rows cancel out, so what is left has none
        else:
            raise MixesError("it may cut through rows")
    sizes[free[0]] = left
    return sizes


def _regroup(shape: Shape, axis: int, sizes: list[Dim]) -> Value:
    positions = [place for place, size in enumerate(sizes) if size.counts_rows]
    if len(positions) != 1:
        raise MixesError("its new shape does not follow the number of rows")
    if product(shape[:axis]) != product(sizes[: positions[0]]):
        raise MixesError("it may cut through rows")
    return rows(sizes, positions[0])


@operator("Flatten")
def flatten(call: Call) -> Value:
    """Two dimensions of all."""
    shape, axis = call.rowed()
    cut = call.number("axis", 1)
    cut = cut + len(shape) if cut < 0 else cut
    return _regroup(shape, axis, [product(shape[:cut]), product(shape[cut:])])


@operator("Transpose")
def transpose(call: Call) -> Value:
    """The axes in another order."""
    value = call.data()
    if value.shape is None:
        return fixed()
    order = call.list_of("perm") or list(reversed(range(len(value.shape))))
    if sorted(order) != list(range(len(value.shape))):
        raise MixesError(f"its perm is {order}")
    shape = [value.shape[place] for place in order]
    return fixed(shape) if value.axis is None else rows(shape, order.index(value.axis))


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Value:
    """Dimensions of 1 put in."""
    value = call.value(0)
    if value.shape is None:
        return fixed()
    listed = call.list_of("axes") or integers(call.optional(1))
    if listed is None:
        raise MixesError("its axes are not constants")
    rank = len(value.shape) + len(listed)
    axes = {axis_in(axis, rank) for axis in listed}
    left = iter(value.shape)
    shape = [ONE if place in axes else next(left) for place in range(rank)]
    if value.axis is None:
        if rank > 1 and value.counts:
            raise MixesError("it makes a matrix of how many rows there are")
        return Value(tuple(shape), None, value.elements if rank <= 1 else None)
    kept = [place for place in range(rank) if place not in axes]
    return rows(shape, kept[value.axis])


@operator("Squeeze")
def squeeze(call: Call) -> Value:
    """Dimensions of 1 removed; never the rows', which are 1 by accident."""
    value = call.value(0)
    if value.shape is None:
        return fixed()
    axes = axes_of(call, 1, len(value.shape))
    if axes is None:
        if value.axis is not None:
            raise MixesError("it takes out every dimension of 1, so also a single row's")
        if any(dim.known is None for dim in value.shape):
            return fixed()
        axes = [place for place, dim in enumerate(value.shape) if dim == ONE]
    if value.axis in axes:
        raise MixesError("it takes out the rows' dimension")
    kept = [place for place in range(len(value.shape)) if place not in axes]
    shape = [value.shape[place] for place in kept]
    if value.axis is None:
        return Value(tuple(shape), None, value.elements)
    return rows(shape, kept.index(value.axis))


@operator("Expand")
def expand(call: Call) -> Value:
    """Repeated up to a shape, which may say how many rows there are."""
    value, wanted = call.data(0), call.value(1)
    if wanted.axis is not None:
        raise MixesError("its shape is computed from the data")
    target = wanted.elements
    if target is None or value.shape is None:
        if value.axis is not None or wanted.counts:
            raise MixesError("its shape is not known")
        return fixed()
    sizes = [size if isinstance(size, Dim) else unknown_dim() for size in target]
    if any(size.factor < 0 for size in sizes):
        raise MixesError("its shape has a size below 0")
    positions = [place for place, size in enumerate(sizes) if size.counts_rows]
    if not positions:
        return broadcast([value, fixed(sizes)])
    if len(positions) > 1:
        raise MixesError("more than one dimension depends on how many rows there are")
    return broadcast([value, rows(sizes, positions[0])])


@operator("Tile")
def tile(call: Call) -> Value:
    """Repeated along other axes than the rows', or as many times as there are rows."""
    value, wanted = call.data(0), call.value(1)
    if wanted.axis is not None or call.opset < 6:
        raise MixesError("its repeats are computed from the data")
    times = wanted.elements
    if times is None or value.shape is None:
        if value.axis is not None or wanted.counts:
            raise MixesError("its repeats are not known")
        return fixed()
    shape: list[Dim] = []
    for place, (size, count) in enumerate(zip(value.shape, times, strict=True)):
        if place == value.axis and count != ONE:
            raise MixesError("it repeats the rows")
        if isinstance(count, Dim) and count.counts_rows and (count != N or size != ONE):
            raise MixesError("it repeats more than one row")
        shape.append(size * count if isinstance(count, Dim) else unknown_dim())
    positions = [place for place, size in enumerate(shape) if size.counts_rows]
    if not positions:
        return fixed(shape)
    return rows(shape, positions[0])


@operator("ConstantOfShape")
def constant_of_shape(call: Call) -> Value:
    """One number everywhere, also once for every row."""
    wanted = call.value(0)
    if wanted.axis is not None:
        raise MixesError("its shape is computed from the data")
    if wanted.elements is None:
        return fixed()
    sizes = [size if isinstance(size, Dim) else unknown_dim() for size in wanted.elements]
    positions = [place for place, size in enumerate(sizes) if size.counts_rows]
    if positions:
        return rows(sizes, positions[0])
    fill = call.attributes.get("value")
    count = sizes[0].known if len(sizes) == 1 else None
    if isinstance(fill, Tensor) and count is not None and 0 <= count <= 16:
        elements = constant(fill).elements
        if elements is not None and len(elements) == 1:
            return fixed(sizes, elements * count)
    return fixed(sizes)
