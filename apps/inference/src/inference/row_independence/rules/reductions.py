"""Operators that reduce, normalize, sort, quantize and recur: which axes they join."""

from __future__ import annotations

from inference.row_independence.rules.operators import (
    MICROSOFT,
    Call,
    axes_of,
    axis_in,
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
    integers,
    rows,
)


def _rest(call: Call) -> tuple[Shape, int]:
    """Shape and rows of the first input; all others are the same in a batch as alone."""
    found = call.rowed()
    call.all_fixed(1)
    return found


@operator(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def reduce_(call: Call) -> Value:
    """Some axes become one number; the rows' must not."""
    first = call.value(0)
    if call.node.operator == "ReduceProd" and first.elements is not None and first.axis is None:
        total = Dim(1)
        for element in first.elements:
            if not isinstance(element, Dim):
                break
            total *= element
        else:
            keep = call.number("keepdims", 1)
            if (first.rank or 0) == 1 and not call.number("noop_with_empty_axes", 0):
                return Value((ONE,) if keep else (), None, (total,))
    shape, axis = _rest(call)
    axes = axes_of(call, 1, len(shape))
    if not axes:
        if not call.number("noop_with_empty_axes", 0):
            raise MixesError("it reduces every axis, so also the rows'")
        return rows(shape, axis)
    if axis in axes:
        raise MixesError(f"it reduces axis {axis}, which holds the rows")
    if call.number("keepdims", 1):
        return rows([ONE if place in axes else dim for place, dim in enumerate(shape)], axis)
    kept = [place for place in range(len(shape)) if place not in axes]
    return rows([shape[place] for place in kept], kept.index(axis))


@operator("ArgMax", "ArgMin")
def arg_max(call: Call) -> Value:
    """The place of the largest along another axis than the rows'."""
    shape, place = _rest(call)
    axis = axis_in(call.number("axis", 0), len(shape))
    if axis == place:
        raise MixesError("it looks for the largest of all rows")
    if call.number("keepdims", 1):
        return rows([*shape[:axis], ONE, *shape[axis + 1 :]], place)
    return rows([*shape[:axis], *shape[axis + 1 :]], place - (axis < place))


@operator("TopK")
def top_k(call: Call) -> list[Value]:
    """The largest along another axis than the rows'."""
    shape, place = _rest(call)
    axis = axis_in(call.number("axis", -1), len(shape))
    if axis == place:
        raise MixesError("it ranks the rows")
    count = integers(call.optional(1))
    size = Dim(count[0]) if count else unknown_dim()
    result = rows([*shape[:axis], size, *shape[axis + 1 :]], place)
    return [result, result]


@operator("CumSum", "CumProd")
def running(call: Call) -> Value:
    """A running result along another axis than the rows'."""
    shape, place = _rest(call)
    known = integers(call.fixed(1))
    if known is None or len(known) != 1:
        raise MixesError("its axis is not a constant")
    if axis_in(known[0], len(shape)) == place:
        raise MixesError("it runs along the rows")
    return rows(shape, place)


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call) -> Value:
    """Along one axis; before version 13, along it and every axis after it."""
    shape, place = _rest(call)
    early = call.opset < 13
    axis = axis_in(call.number("axis", 1 if early else -1), len(shape))
    if place == axis or (early and place > axis):
        raise MixesError("it shares out one among all rows")
    return rows(shape, place)


@operator("LpNormalization")
def lp_normalization(call: Call) -> Value:
    """Along one axis."""
    shape, place = _rest(call)
    if axis_in(call.number("axis", -1), len(shape)) == place:
        raise MixesError("it normalizes over the rows")
    return rows(shape, place)


@operator("LayerNormalization", "RMSNormalization")
def layer_normalization(call: Call) -> list[Value]:
    """Over its axis and every one after it."""
    shape, place = _rest(call)
    axis = axis_in(call.number("axis", -1), len(shape))
    if place >= axis:
        raise MixesError("it normalizes over the rows")
    total = broadcast([call.value(position) for position in range(len(call.inputs))
                       if call.given(position)])  # fmt: skip
    if total.axis != place or len(total.shape or ()) != len(shape):
        raise MixesError("its scale has more dimensions than the input")
    moments = rows([dim if at < axis else ONE for at, dim in enumerate(shape)], place)
    return [rows(shape, place), moments, moments]


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(call: Call) -> list[Value]:
    """A sum of two, normalized along the last axis."""
    shape, place = call.rowed()
    other = call.rowed(1)
    call.all_fixed(2)
    if len(shape) != 3 or place == 2 or other != (shape, place):
        raise MixesError("it normalizes over the rows")
    used = [place_ for place_, name in enumerate(call.node.outputs) if name]
    if any(position in (1, 2) for position in used):
        raise MixesError("it gives moments")
    return [rows(shape, place)] * 4


@operator("InstanceNormalization", "GroupNormalization")
def instance_normalization(call: Call) -> Value:
    """Over the positions of each picture."""
    shape, place = _rest(call)
    if place != 0 or len(shape) < 3:
        raise MixesError("it normalizes over the rows")
    return rows(shape, place)


@operator("BatchNormalization")
def batch_normalization(call: Call) -> Value:
    """By learned moments; in its training form by those of the batch."""
    shape, place = _rest(call)
    if call.opset < 7 or call.number("training_mode", 0) or call.outputs != 1:
        raise MixesError("in its training form it normalizes over the rows")
    if place != 0 or len(shape) < 2:
        raise MixesError("its channels are the rows")
    return rows(shape, place)


@operator("MeanVarianceNormalization")
def mean_variance(call: Call) -> Value:
    """Over its axes, by default those of all pictures."""
    shape, place = _rest(call)
    axes = [axis_in(axis, len(shape)) for axis in call.list_of("axes") or [0, 2, 3]]
    if call.opset < 9 or place in axes:
        raise MixesError("it normalizes over the rows")
    return rows(shape, place)


@operator("LRN")
def local_response(call: Call) -> Value:
    """Over neighbouring channels."""
    shape, place = _rest(call)
    if place != 0 or len(shape) < 3:
        raise MixesError("it normalizes over the rows")
    return rows(shape, place)


@operator("Dropout")
def dropout(call: Call) -> list[Value]:
    """Nothing, unless it trains."""
    value = call.data()
    if call.opset < 7:
        raise MixesError("it may be in its training form")
    call.all_fixed(1)
    if call.given(2) and integers(call.fixed(2)) != (0,):
        raise MixesError("it may be in its training form, and random")
    return [Value(value.shape, value.axis)] * 2


@operator("QuantizeLinear", "DequantizeLinear")
def quantize(call: Call) -> Value:
    """By a scale that is the same in a batch as alone, one for all rows."""
    value = call.data()
    call.all_fixed(1)
    if value.axis is None:
        return fixed(value.shape)
    shape, place = call.rowed()
    scale = call.fixed(1)
    if call.number("block_size", 0):
        raise MixesError("its scale is one for each block")
    if not is_single(scale):
        if scale.rank != 1 or axis_in(call.number("axis", 1), len(shape)) == place:
            raise MixesError("its scale is one for every row")
    elif scale.rank == 1 and len(shape) > 1:
        axis = axis_in(call.number("axis", 1), len(shape))
        if axis == place:
            raise MixesError("its scale is one for every row")
    return rows(shape, place)


@operator("DynamicQuantizeLinear")
def dynamic_quantize(call: Call) -> list[Value]:
    """Its scale is that of the largest number in the batch."""
    value = call.data()
    if value.axis is None:
        return [fixed(value.shape), fixed(()), fixed(())]
    raise MixesError("its scale is computed over all rows, so an answer depends on its neighbours")


@operator("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> list[Value]:
    """The rows are the second axis of sequences; the first is time."""
    shape, place = call.rowed()
    if call.number("layout", 0) != 0:
        raise MixesError("its layout 1 is not followed")
    if len(shape) != 3 or place != 1:
        raise MixesError("its first axis is time, and holds the rows")
    for position in (1, 2, 3, 7):
        if call.given(position):
            call.fixed(position)
    for position, where in ((4, 0), (5, 1), (6, 1)):
        if call.given(position):
            other, there = call.rowed(position)
            if there != where or other[where] != shape[place]:
                raise MixesError("its states or lengths are not those of the rows")
    directions = Dim(2 if call.text("direction", "forward") == "bidirectional" else 1)
    size = call.number("hidden_size", 0)
    hidden = Dim(size) if size > 0 else unknown_dim()
    last = rows([directions, shape[1], hidden], 1)
    return [rows([shape[0], directions, shape[1], hidden], 2), last, last]
