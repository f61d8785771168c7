"""Tensors as JSON and as bytes, both ways, checked."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.datatypes import NUMPY
from inference.errors import BadRequest

Array = NDArray[Any]

_CODES = {
    "FP16": "f",
    "FP32": "f",
    "FP64": "d",
    "INT8": "b",
    "UINT8": "B",
    "INT16": "h",
    "UINT16": "H",
    "INT32": "i",
    "UINT32": "I",
    "INT64": "q",
    "UINT64": "Q",
}
_LENGTH = struct.Struct("<I")


def from_json(
    name: str, datatype: str, shape: Sequence[int], data: object, *, base64_bytes: bool = False
) -> Array:
    """``data``, flat or nested in row-major order, as an array of ``shape``.

    A flat float64 array stands for a list of numbers (see :mod:`inference.jsonparse`).
    BYTES elements are text, or base64 with ``base64_bytes`` (then the array holds bytes).
    BadRequest names the input where an element has the wrong type or is out of range, or
    where there are more or fewer of them than the shape says.
    """
    if type(data) is np.ndarray:
        return _from_floats(name, datatype, shape, data)
    if type(data) is not list:
        raise BadRequest(f"input {name!r}: data must be a list, got {_kind(data)}")
    if data and type(data[0]) is list:
        data = _flatten(name, shape, data)
    if len(data) != math.prod(shape):
        raise BadRequest(
            f"input {name!r}: shape {list(shape)} holds {math.prod(shape)} elements, "
            f"data has {len(data)}"
        )
    if datatype == "BYTES":
        return shaped(name, shape, _texts(name, data, base64_bytes=base64_bytes))
    if datatype == "BOOL":
        if not all(type(value) is bool for value in data):
            raise BadRequest(f"input {name!r}: BOOL data must be true or false")
        return shaped(name, shape, np.array(data, dtype=np.bool_))
    try:
        # array() refuses text, null and, for whole numbers, fractions and what is out of
        # range; numpy would turn each of those into some number.
        values: Array = np.frombuffer(array(_CODES[datatype], data), dtype=_WIDE[datatype])
    except (TypeError, OverflowError) as error:
        raise BadRequest(f"input {name!r}: data is not all {datatype}: {error}") from None
    return shaped(name, shape, _finite(name, datatype, values))


def shaped(name: str, shape: Sequence[int], values: Array) -> Array:
    """As many values as ``shape`` holds, in that shape.

    BadRequest where no array can have it: a shape with a 0 in it holds nothing, however large
    its other sizes are.
    """
    try:
        return values.reshape(shape)
    except (OverflowError, ValueError):
        raise BadRequest(f"input {name!r}: shape {list(shape)} is too large") from None


def _from_floats(name: str, datatype: str, shape: Sequence[int], data: Array) -> Array:
    if data.size != math.prod(shape):
        raise BadRequest(
            f"input {name!r}: shape {list(shape)} holds {math.prod(shape)} elements, "
            f"data has {data.size}"
        )
    with np.errstate(over="ignore"):
        values: Array = data.astype(_WIDE[datatype])
    return shaped(name, shape, _finite(name, datatype, values))


def _finite(name: str, datatype: str, values: Array) -> Array:
    """Numbers the datatype can hold; BadRequest names the first that it cannot."""
    if datatype == "FP16":
        with np.errstate(over="ignore"):
            values = values.astype(np.float16)
    # JSON cannot say Infinity, so one here is a number too large for the datatype
    if values.dtype.kind == "f" and not math.isfinite(_sum(values)):
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            raise BadRequest(f"input {name!r}: data[{wrong[0]}] is out of range for {datatype}")
    return values


_WIDE = {name: np.dtype(code) for name, code in _CODES.items()}


def _sum(values: Array) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.add.reduce(values))


def _flatten(name: str, shape: Sequence[int], data: list[Any]) -> list[Any]:
    nested: list[int] = []
    while data and type(data[0]) is list:
        width = len(data[0])
        if not all(type(part) is list and len(part) == width for part in data):
            raise BadRequest(f"input {name!r}: data is nested unevenly")
        nested.append(len(data) // math.prod(nested))
        data = list(chain.from_iterable(data))
    nested.append(len(data) // math.prod(nested) if math.prod(nested) else 0)
    if nested != list(shape):
        raise BadRequest(f"input {name!r}: shape is {list(shape)}, data is nested as {nested}")
    return data


def _texts(name: str, data: list[Any], *, base64_bytes: bool) -> Array:
    values = np.empty(len(data), dtype=object)
    for position, value in enumerate(data):
        if type(value) is not str:
            raise BadRequest(
                f"input {name!r}: data[{position}] is {_kind(value)}, BYTES takes text"
            )
        if base64_bytes:
            try:
                values[position] = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise BadRequest(f"input {name!r}: data[{position}]: {error}") from None
        else:
            values[position] = value
    return values


def from_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview | bytes) -> Array:
    """Little-endian bytes in row-major order as an array of ``shape``; BYTES give bytes objects.

    The array may be a read-only view of ``data``. BadRequest names the input where there are
    more or fewer bytes than the shape says.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return shaped(name, shape, _split_bytes(name, count, data))
    dtype = NUMPY[datatype]
    if len(data) != count * dtype.itemsize:
        raise BadRequest(
            f"input {name!r}: shape {list(shape)} of {datatype} takes {count * dtype.itemsize} "
            f"bytes, got {len(data)}"
        )
    if datatype == "BOOL":
        flags: Array = np.frombuffer(data, dtype=np.uint8) != 0
        return shaped(name, shape, flags)
    values: Array = np.frombuffer(data, dtype=dtype)
    return shaped(name, shape, values if values.flags.aligned else values.copy())


def _split_bytes(name: str, count: int, data: memoryview | bytes) -> Array:
    size = len(data)
    if count * _LENGTH.size > size:
        raise BadRequest(
            f"input {name!r}: {count} BYTES elements take at least {count * _LENGTH.size} bytes, "
            f"got {size}"
        )
    values = np.empty(count, dtype=object)
    at = 0
    for position in range(count):
        if at + _LENGTH.size > size:
            raise BadRequest(f"input {name!r}: binary data ends before element {position}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > size:
            raise BadRequest(
                f"input {name!r}: element {position} says {length} bytes, {size - at} are left"
            )
        values[position] = bytes(data[at : at + length])
        at += length
    if at != size:
        raise BadRequest(f"input {name!r}: {size - at} bytes are left over after {count} elements")
    return values


def as_text(name: str, values: Array) -> Array:
    """BYTES elements as the str objects ONNX Runtime's string tensors are made of."""
    flat = np.empty(values.size, dtype=object)
    for position, value in enumerate(values.ravel()):
        try:
            flat[position] = value if isinstance(value, str) else value.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(
                f"input {name!r}: element {position} is no UTF-8 text, and this model takes "
                f"text: {error}"
            ) from None
    return flat.reshape(values.shape)


def to_binary(values: Array) -> bytes:
    """The protocol's bytes of an array: little-endian, row-major; BYTES with their lengths."""
    if values.dtype.kind in "OUS":
        parts: list[bytes] = []
        for value in values.ravel():
            encoded = value.encode() if isinstance(value, str) else bytes(value)
            parts += (_LENGTH.pack(len(encoded)), encoded)
        return b"".join(parts)
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return values.tobytes()


def to_json(values: Array) -> Any:
    """What orjson writes as the flat ``data`` of a tensor.

    NaN and infinities become ``null``: JSON has no word for them; ask for binary data where
    they matter.
    """
    if values.dtype.kind in "OUS":
        return [
            value if isinstance(value, str) else value.decode("utf-8", "replace")
            for value in values.ravel()
        ]
    return np.ascontiguousarray(values).reshape(-1)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
