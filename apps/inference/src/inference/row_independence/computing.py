"""Operators that reduce, normalize, sort and multiply: which axes they join."""

from __future__ import annotations

from inference.row_independence.operators import (
    MICROSOFT,
    Call,
    axes_of,
    axis_in,
    broadcast,
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


def _single(value: Value) -> bool:
    """Whether it is one number."""
    return value.shape is not None and all(dim == ONE for dim in value.shape)


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
    whole = broadcast([call.value(position) for position in range(len(call.inputs))
                       if call.given(position)])  # fmt: skip
    if whole.axis != place or len(whole.shape or ()) != len(shape):
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
    """Over the places of each picture."""
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
    if call.given(2) and not _single(call.fixed(2)):
        raise MixesError("its zero point is one for every row")
    if call.given(3) and call.data(1).axis is not None and not _single(call.fixed(3)):
        raise MixesError("its second zero point is one for every row")
    return _product(call.data(0), call.data(1))


@operator("QLinearMatMul")
def qlinear_matmul(call: Call) -> Value:
    """With scales that are the same in a batch as alone."""
    for position in (1, 2, 4, 5, 6, 7):
        call.fixed(position)
    if not all(_single(call.fixed(position)) for position in (1, 2, 6, 7)):
        raise MixesError("its scale is one for every row")
    if call.data(3).axis is not None and not all(_single(call.fixed(p)) for p in (4, 5)):
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
        whole = broadcast([result, call.data(2)])
        if whole.axis != 0 or whole.rank != 2:
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


def convolved(
    call: Call, shape: Shape, channels: Dim, kernel: list[int] | None, *, ceil: bool = False
) -> Shape:
    """The shape after a window has moved over it; sizes that are not known stay so."""
    places = len(shape) - 2
    pads = call.list_of("pads") or [0] * 2 * places
    strides = call.list_of("strides") or [1] * places
    dilations = call.list_of("dilations") or [1] * places
    plain = call.text("auto_pad", "NOTSET") == "NOTSET" and not ceil
    result = [shape[0], channels]
    for place in range(places):
        size = shape[place + 2].known
        if size is None or kernel is None or not plain:
            result.append(unknown_dim())
            continue
        reach = dilations[place] * (kernel[place] - 1) + 1
        padded = size + pads[place] + pads[place + places]
        result.append(Dim((padded - reach) // strides[place] + 1))
    return tuple(result)


def pictures(call: Call) -> Shape:
    """The shape of the first input, whose rows are pictures (or sounds, or volumes)."""
    shape, axis = call.rowed()
    if axis != 0 or len(shape) < 3:
        raise MixesError("its window moves over the rows")
    return shape


@operator("Conv", "ConvInteger")
def convolution(call: Call) -> Value:
    """Each picture by itself."""
    shape = pictures(call)
    call.all_fixed(1)
    return _convolution(call, shape, call.fixed(1))


@operator("QLinearConv")
def qlinear_convolution(call: Call) -> Value:
    """Each picture by itself, with scales that are the same in a batch as alone."""
    shape = pictures(call)
    call.all_fixed(1)
    return _convolution(call, shape, call.fixed(3))


def _convolution(call: Call, shape: Shape, weight: Value) -> Value:
    sizes = weight.shape
    if sizes is None or len(sizes) != len(shape):
        return rows([shape[0], *(unknown_dim() for _ in shape[1:])], 0)
    known = [dim.known for dim in sizes[2:]]
    kernel = [size for size in known if size is not None]
    return rows(convolved(call, shape, sizes[0], kernel if len(kernel) == len(known) else None), 0)


@operator("ConvTranspose")
def transposed_convolution(call: Call) -> Value:
    """Each picture by itself."""
    shape = pictures(call)
    call.all_fixed(1)
    return rows([shape[0], *(unknown_dim() for _ in shape[1:])], 0)


@operator("AveragePool", "LpPool", "MaxPool")
def pool(call: Call) -> list[Value]:
    """Each picture by itself; the places MaxPool can give count through the whole batch."""
    shape = pictures(call)
    kernel = call.list_of("kernel_shape")
    ceil = bool(call.number("ceil_mode", 0))
    pooled = rows(convolved(call, shape, shape[1], kernel, ceil=ceil), 0)
    if call.node.operator != "MaxPool":
        return [pooled]
    return [pooled, Value(reason="its indices count through all rows")]


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(call: Call) -> Value:
    """Each picture becomes one place."""
    shape = pictures(call)
    return rows([*shape[:2], *(ONE for _ in shape[2:])], 0)


@operator("GridSample")
def grid_sample(call: Call) -> Value:
    """Each picture by its own grid."""
    shape = pictures(call)
    grid, axis = call.rowed(1)
    if axis != 0 or grid[0] != shape[0] or len(grid) != len(shape):
        raise MixesError("pictures and grids are not the same rows")
    return rows([*shape[:2], *grid[1:-1]], 0)


@operator("Det")
def determinant(call: Call) -> Value:
    """Of each row's matrix."""
    shape, axis = call.rowed()
    if axis >= len(shape) - 2:
        raise MixesError("the rows are a matrix's")
    return rows(shape[:-2], axis)


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
    if not _single(scale):
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
