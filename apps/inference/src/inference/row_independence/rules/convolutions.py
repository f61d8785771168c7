"""Operators that convolve, pool and sample pictures."""

from __future__ import annotations

from inference.row_independence.rules.operators import (
    Call,
    operator,
    unknown_dim,
)
from inference.row_independence.values import (
    ONE,
    Dim,
    MixesError,
    Shape,
    Value,
    rows,
)


def convolved(
    call: Call, shape: Shape, channels: Dim, kernel: list[int] | None, *, ceil: bool = False
) -> Shape:
    """The shape after a window has moved over it; sizes that are not known stay so."""
    dimensions = len(shape) - 2
    pads = call.list_of("pads") or [0] * 2 * dimensions
    strides = call.list_of("strides") or [1] * dimensions
    dilations = call.list_of("dilations") or [1] * dimensions
    plain = call.text("auto_pad", "NOTSET") == "NOTSET" and not ceil
    result = [shape[0], channels]
    for place in range(dimensions):
        size = shape[place + 2].known
        if size is None or kernel is None or not plain:
            result.append(unknown_dim())
            continue
        reach = dilations[place] * (kernel[place] - 1) + 1
        padded = size + pads[place] + pads[place + dimensions]
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
    """Each picture by itself; the positions MaxPool can give count through all of the batch."""
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
