"""Operators that cut, join, pad and pick: where the rows are afterwards."""

from __future__ import annotations

from inference.row_independence.rules.operators import (
    Call,
    axes_of,
    axis_in,
    known_shape,
    operator,
    unknown_dim,
)
from inference.row_independence.values import (
    Dim,
    Element,
    MixesError,
    Value,
    fixed,
    integers,
    rows,
)

_END = (1 << 31) - 1
"""An end from which on a slice reaches to the last row, however many there are."""


@operator("Concat")
def concat(call: Call) -> Value:
    """Joined along another axis than the rows'."""
    values = [call.value(position) for position in range(len(call.inputs))]
    if all(value.axis is None and value.rank == 1 for value in values):
        parts = [value.elements for value in values]
        if all(part is not None for part in parts):
            joined = tuple(element for part in parts for element in part or ())
            return Value((Dim(len(joined)),), None, joined)
    if all(value.fixed and value.shape is None for value in values):
        return fixed()
    shapes = [known_shape(value) for value in values]
    if any(shape is None for shape in shapes):
        if any(value.axis is not None for value in values):
            raise MixesError("a tensor of unknown rank meets the rows")
        return fixed()
    rank = len(shapes[0] or ())
    if any(len(shape or ()) != rank for shape in shapes):
        raise MixesError("its inputs have different ranks")
    axis = axis_in(call.number("axis", 1 if call.opset < 4 else 0), rank)
    sizes = [(shape or ())[axis] for shape in shapes]
    along = (
        Dim(sum(size.known or 0 for size in sizes))
        if all(size.known is not None for size in sizes)
        else unknown_dim()
    )
    positions = {value.axis for value in values}
    first = list(shapes[0] or ())
    first[axis] = along
    if positions == {None}:
        return fixed(first)
    if len(positions) != 1:
        raise MixesError("some of its inputs have rows, others none or elsewhere")
    (place,) = positions
    if place is None or place == axis:
        raise MixesError("it joins along the rows")
    if len({(shape or ())[place] for shape in shapes}) != 1:
        raise MixesError("its inputs have different numbers of elements for each row")
    return rows(first, place)


@operator("Split")
def split(call: Call) -> list[Value]:
    """Parts along another axis than the rows'."""
    value = call.data()
    count = len(call.node.outputs)
    if value.shape is None:
        return [fixed()] * count
    axis = axis_in(call.number("axis", 0), len(value.shape))
    if axis == value.axis:
        raise MixesError("it splits along the rows")
    listed = call.list_of("split")
    if listed is None and call.given(1):
        known = integers(call.fixed(1))
        listed = None if known is None else list(known)
        sizes = [unknown_dim() for _ in range(count)] if listed is None else []
    elif listed is None:
        part = value.shape[axis].over(Dim(count))
        sizes = [unknown_dim() if part is None else part for _ in range(count)]
    if listed is not None:
        sizes = [Dim(size) for size in listed]
    shapes = [(*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in sizes]
    return [Value(shape, value.axis) for shape in shapes]


@operator("Slice")
def slice_(call: Call) -> Value:
    """A part along other axes than the rows', or all rows."""
    value = call.value(0)
    given = _bounds(call)
    if value.shape is None:
        return fixed()
    if given is None:
        if value.axis is not None or value.counts:
            raise MixesError("where it cuts is not known")
        return fixed([unknown_dim() for _ in value.shape])
    shape = list(value.shape)
    elements = value.elements
    for axis_, start, end, step in given:
        axis = axis_in(axis_, len(shape))
        if axis == value.axis:
            reaches = isinstance(end, Dim) and (end == shape[axis] or (end.known or 0) >= _END)
            if start != Dim(0) or step != Dim(1) or not reaches:
                raise MixesError("it cuts along the rows")
            continue
        for bound in (start, end, step):
            if isinstance(bound, Dim) and bound.counts_rows:
                raise MixesError("where it cuts depends on how many rows there are")
        known = [bound.known if isinstance(bound, Dim) else None for bound in (start, end, step)]
        size = shape[axis].known
        if size is not None and None not in known:
            part = range(size)[slice(*known)]
            shape[axis] = Dim(len(part))
            if elements is not None:
                elements = tuple(elements[place] for place in part)
            continue
        shape[axis] = unknown_dim()
        if value.counts:
            raise MixesError("where it cuts is not known")
        elements = None
    return Value(tuple(shape), value.axis, elements)


def _bounds(call: Call) -> list[tuple[int, Element, Element, Element]] | None:
    """Axis, start, end and step of each cut; None where they are not known."""
    if call.opset < 10:
        starts = [Dim(number) for number in call.list_of("starts") or []]
        ends = [Dim(number) for number in call.list_of("ends") or []]
        axes = call.list_of("axes") or list(range(len(starts)))
        return [(a, s, e, Dim(1)) for a, s, e in zip(axes, starts, ends, strict=True)]
    for position in range(1, len(call.inputs)):
        if call.given(position) and call.value(position).axis is not None:
            raise MixesError("where it cuts is computed from the rows")
    lower, upper = call.value(1).elements, call.value(2).elements
    if lower is None or upper is None or len(lower) != len(upper):
        if call.value(1).counts or call.value(2).counts:
            raise MixesError("where it cuts depends on how many rows there are")
        known = integers(call.optional(3))
        if known is None:
            return None
        return [(axis, None, None, None) for axis in known]
    positions = integers(call.optional(3)) if call.given(3) else tuple(range(len(lower)))
    if positions is None:
        return None
    steps = call.value(4).elements if call.given(4) else tuple(Dim(1) for _ in lower)
    if steps is None or len(steps) != len(lower) or len(positions) != len(lower):
        return None
    return list(zip(positions, lower, upper, steps, strict=True))


@operator("Gather")
def gather(call: Call) -> Value:
    """Rows looked up in a table, or parts cut out of every row."""
    value, index = call.value(0), call.data(1)
    if value.elements is not None and value.axis is None and (value.rank or 0) == 1:
        positions = integers(index)
        if positions is not None and (index.rank or 0) <= 1:
            count = len(value.elements)
            if any(not -count <= place < count for place in positions):
                raise MixesError("it takes an element that is not there")
            return Value(index.shape, None, tuple(value.elements[place] for place in positions))
    shape = known_shape(value)
    if shape is None or index.shape is None:
        if value.axis is not None or index.axis is not None:
            raise MixesError("a tensor of unknown rank meets the rows")
        return fixed()
    axis = axis_in(call.number("axis", 0), len(shape))
    result = (*shape[:axis], *index.shape, *shape[axis + 1 :])
    if value.axis is None:
        return fixed(result) if index.axis is None else rows(result, axis + index.axis)
    if index.axis is not None:
        raise MixesError("it takes rows by what other rows say")
    if axis == value.axis:
        raise MixesError("it takes some of the rows")
    before = value.axis < axis
    return rows(result, value.axis if before else value.axis - 1 + len(index.shape))


@operator("GatherElements", "ScatterElements", "Scatter")
def by_elements(call: Call) -> Value:
    """Elements of each row at positions that belong to it."""
    shape, place = call.rowed()
    axis = axis_in(call.number("axis", 0), len(shape))
    if axis == place:
        raise MixesError("it takes or puts elements of other rows")
    for position in range(1, len(call.inputs)):
        other, there = call.rowed(position)
        if there != place or other[there] != shape[place] or len(other) != len(shape):
            raise MixesError("its inputs do not have the same rows")
    if call.node.operator == "GatherElements":
        shape = call.rowed(1)[0]
    return rows(shape, place)


@operator("GatherND")
def gather_nd(call: Call) -> Value:
    """Parts at positions that belong to each row, or looked up in a table."""
    value, index = call.data(0), call.data(1)
    together = call.number("batch_dims", 0)
    if value.shape is None or index.shape is None:
        raise MixesError("a tensor of unknown rank meets the rows")
    deep = index.shape[-1].known
    if deep is None or index.axis is None or index.axis == len(index.shape) - 1:
        raise MixesError("it takes parts by positions that are not each row's")
    result = (*index.shape[:-1], *value.shape[together + deep :])
    if value.axis is None:
        if index.axis < together:
            raise MixesError("a tensor of its own size meets the rows along their axis")
        return rows(result, index.axis)
    batched = value.axis == index.axis and index.axis < together
    if not batched or value.shape[value.axis] != index.shape[index.axis]:
        raise MixesError("it takes parts of other rows")
    return rows(result, index.axis)


@operator("Pad")
def pad(call: Call) -> Value:
    """Filled up along other axes than the rows'."""
    value = call.data()
    if value.shape is None:
        return fixed()
    rank = len(value.shape)
    if call.given(2):
        call.fixed(2)
    listed = call.list_of("pads")
    amounts = listed if listed is not None else integers(call.fixed(1))
    axes = axes_of(call, 3, rank, name="axes") if call.given(3) else list(range(rank))
    if amounts is None or axes is None or len(amounts) != 2 * len(axes):
        if value.axis is not None:
            raise MixesError("how much it pads is not known")
        return fixed([unknown_dim() for _ in value.shape])
    shape = list(value.shape)
    for position, axis in enumerate(axes):
        more = amounts[position] + amounts[position + len(axes)]
        nothing = amounts[position] == 0 and amounts[position + len(axes)] == 0
        if axis == value.axis and not nothing:
            raise MixesError("it pads the rows")
        if not nothing:
            size = shape[axis].known
            shape[axis] = unknown_dim() if size is None else Dim(size + more)
    return Value(tuple(shape), value.axis)


@operator("OneHot")
def one_hot(call: Call) -> Value:
    """A dimension more, for each element by itself."""
    shape, axis = call.rowed()
    call.all_fixed(1)
    place = axis_in(call.number("axis", -1), len(shape) + 1)
    deep = integers(call.fixed(1))
    size = Dim(deep[0]) if deep else unknown_dim()
    return rows([*shape[:place], size, *shape[place:]], axis + (place <= axis))


@operator("DepthToSpace", "SpaceToDepth")
def depth(call: Call) -> Value:
    """Channels and positions of one picture."""
    shape, axis = call.rowed()
    if axis != 0 or len(shape) != 4:
        raise MixesError("it moves channels and positions, of which one is the rows")
    return rows([shape[0], *(unknown_dim() for _ in range(3))], 0)


@operator("Resize", "Upsample")
def resize(call: Call) -> Value:
    """Another size along other axes than the rows'."""
    shape, axis = call.rowed()
    rank = len(shape)
    for other in range(1, len(call.inputs)):
        if call.given(other) and call.value(other).axis is not None:
            raise MixesError("how far it resizes is computed from the rows")
    if call.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise MixesError("it crops")
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise MixesError("its sizes depend on one another")
    place = 1 if call.node.operator == "Upsample" or call.opset < 11 else 2
    axes = [axis_in(a, rank) for a in call.list_of("axes") or range(rank)]
    position = axes.index(axis) if axis in axes else None
    sizes = call.optional(3)
    scales = call.attributes.get("scales")
    if scales is None:
        there = call.optional(place)
        scales = there.elements if there is not None else None
    empty = scales is None or len(scales) == 0
    if position is not None:
        if sizes is not None and empty:
            elements = sizes.elements
            if elements is None or len(elements) != len(axes) or elements[position] != shape[axis]:
                raise MixesError("it resizes along the rows")
        elif empty or scales is None or len(scales) != len(axes) or scales[position] != 1.0:
            raise MixesError("it resizes along the rows")
    wanted = sizes.elements if sizes is not None and empty else None
    result = [unknown_dim() for _ in shape]
    for place_, dim in enumerate(shape):
        if place_ == axis or place_ not in axes:
            result[place_] = dim
        elif wanted is not None and len(wanted) == len(axes):
            size = wanted[axes.index(place_)]
            result[place_] = size if isinstance(size, Dim) and not size.counts_rows else dim
            if isinstance(size, Dim) and size.counts_rows:
                raise MixesError("more than one dimension depends on how many rows there are")
            if not isinstance(size, Dim):
                result[place_] = unknown_dim()
        elif scales is not None and scales[axes.index(place_)] == 1.0:
            result[place_] = dim
    return rows(result, axis)


@operator("Range")
def range_(call: Call) -> Value:
    """Numbers between fixed ones."""
    for position in range(3):
        if call.value(position).counts:
            raise MixesError("it counts up to how many rows there are")
        call.fixed(position)
    return fixed([unknown_dim()])


@operator("Trilu")
def trilu(call: Call) -> Value:
    """A triangle of each row's matrix."""
    value = call.data()
    call.all_fixed(1)
    if value.shape is not None and value.axis is not None and value.axis >= len(value.shape) - 2:
        raise MixesError("its triangle is one of rows")
    return Value(value.shape, value.axis)


@operator("ReverseSequence")
def reverse_sequence(call: Call) -> Value:
    """Each row backwards up to its own length."""
    shape, axis = call.rowed()
    lengths, there = call.rowed(1)
    if call.number("batch_axis", 1) != axis or there != 0 or lengths[0] != shape[axis]:
        raise MixesError("it reverses rows")
    if call.number("time_axis", 0) == axis:
        raise MixesError("it reverses rows")
    return rows(shape, axis)
