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

from kit.oip.datatypes import NUMPY
from kit.oip.errors import BadElementError, BadTensorError

Array = NDArray[Any]

_CODES = {
    "FP16": "d",  # by way of FP32 some numbers would be rounded twice
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
_WIDE = {name: np.dtype(code) for name, code in _CODES.items()}
_LARGEST = {name: float(np.finfo(NUMPY[name]).max) for name in ("FP16", "FP32", "FP64")}
MOST_TEXTS = 1_000_000
"""BYTES elements of a tensor. Each is an object of some 60 bytes, were it of four when sent."""
_LENGTH = struct.Struct("<I")
_MOST_SHOWN = 40
"""Characters of a wrong element that a message shows."""


def from_json(
    name: str,
    datatype: str,
    shape: Sequence[int],
    data: object,
    *,
    base64_bytes: bool = False,
    document: bytes | None = None,
) -> Array:
    """``data``, flat or nested in row-major order, as an array of ``shape``.

    A flat float64 array stands for a list of numbers, as a parser may have made it. BYTES
    elements are text, or base64 with ``base64_bytes`` (then the array holds bytes). ``document``
    is the JSON that ``data`` came from, if it is at hand: where no true or false is in it, none
    need be looked for among the numbers, which array() would take for 1 and 0.
    BadTensorError names the input and the element where one has the wrong type or is out of
    range, and where there are more or fewer of them than the shape says.
    """
    if type(data) is np.ndarray:
        count = data.size
    elif type(data) is list:
        if data and type(data[0]) is list:
            data = _flatten(name, shape, data)
        count = len(data)
    else:
        raise BadTensorError(f"input {name!r}: data must be a list, got {kind_of(data)}")
    if count != math.prod(shape):
        raise BadTensorError(
            f"input {name!r}: shape {list(shape)} holds {math.prod(shape)} elements, "
            f"data has {count}"
        )
    try:
        values = array_of(datatype, data, base64_bytes=base64_bytes, document=document)
    except BadElementError as error:
        raise BadTensorError(f"input {name!r}: data[{error.position}] {error.reason}") from None
    return shaped(name, shape, values)


def array_of(
    datatype: str,
    data: list[Any] | Array,
    *,
    base64_bytes: bool = False,
    document: bytes | None = None,
) -> Array:
    """A flat list of JSON's values as a flat array; see :func:`from_json`.

    BadElementError says which element is wrong: another kind of value, or a number that the
    datatype cannot hold. No number is changed but by rounding to the datatype's precision.
    """
    code = _CODES.get(datatype)
    if code is not None and type(data) is list:
        if (document is None or _may_hold_booleans(document)) and bool in set(map(type, data)):
            raise _first_wrong(datatype, data)
        try:
            # array() refuses text, null and, for integers, fractions and what is out of
            # range; numpy would make some number of each of those.
            values: Array = np.frombuffer(array(code, data), dtype=_WIDE[datatype])
        except (TypeError, OverflowError):
            raise _first_wrong(datatype, data) from None
        return values if values.dtype.kind in "iu" else _finite(datatype, values, data)
    if isinstance(data, np.ndarray):
        if _in_range(datatype, data):
            return data.astype(NUMPY[datatype])
        with np.errstate(over="ignore"):
            return _finite(datatype, data.astype(NUMPY[datatype]), data)
    if datatype == "BYTES":
        return _texts(data, base64_bytes=base64_bytes)
    for position, value in enumerate(data):
        if type(value) is not bool:
            raise BadElementError(position, f"is {_shown(value)}: BOOL takes true or false")
    return np.array(data, dtype=np.bool_)


def _may_hold_booleans(document: bytes) -> bool:
    """Whether true or false may stand in it: one letter is found much faster than a word."""
    return b"r" in document or b"l" in document


def _first_wrong(datatype: str, data: Sequence[Any]) -> BadElementError:
    """The error for the first element that ``array`` does not take."""
    numbers = (int,) if NUMPY[datatype].kind in "iu" else (int, float)
    for position, value in enumerate(data):
        # a parser makes a float of an integer that is longer than its own
        if type(value) is float and float not in numbers and not _may_fit(datatype, value):
            return BadElementError(position, _out_of_range(datatype, value))
        if type(value) not in numbers:
            hint = ": it takes integers without a fraction" if type(value) is float else ""
            return BadElementError(position, f"is {_shown(value)}, no {datatype}{hint}")
        try:
            array(_CODES[datatype], [value])
        except OverflowError:
            return BadElementError(position, _out_of_range(datatype, value))
    raise AssertionError("each element alone is fine")


def _may_fit(datatype: str, value: float) -> bool:
    """Whether it lies within a datatype of integers, fraction or not."""
    limits = np.iinfo(NUMPY[datatype])
    return limits.min <= value < int(limits.max) + 1


def _out_of_range(datatype: str, value: object) -> str:
    said = f"is {_shown(value)}: out of range for {datatype}"
    if NUMPY[datatype].kind not in "iu":
        return said
    limits = np.iinfo(NUMPY[datatype])
    return f"{said}, which takes {limits.min} to {limits.max}"


def shaped(name: str, shape: Sequence[int], values: Array) -> Array:
    """As many values as ``shape`` holds, in that shape.

    BadTensorError where no array can have it: a shape with a 0 in it holds nothing, however large
    its other sizes are.
    """
    try:
        return values.reshape(shape)
    except (OverflowError, ValueError):
        raise BadTensorError(f"input {name!r}: shape {list(shape)} is too large") from None


def _finite(datatype: str, values: Array, sent: list[Any] | Array) -> Array:
    """Numbers the datatype can hold; BadElementError names the first that it cannot."""
    if datatype == "FP16" and values.dtype != np.float16:
        with np.errstate(over="ignore"):
            values = values.astype(np.float16)
    # JSON cannot say Infinity, so one here is a number too large for the datatype
    if not _in_range(datatype, values):
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            position = int(wrong[0])
            raise BadElementError(
                position, f"is {float(sent[position])!r}: out of range for {datatype}"
            )
    return values


def _in_range(datatype: str, values: Array) -> bool:
    """Whether every number is within the datatype's largest: False also where one is no number."""
    if not values.size:
        return True
    largest = _LARGEST[datatype]
    return bool(np.maximum.reduce(values) <= largest and np.minimum.reduce(values) >= -largest)


def _flatten(name: str, shape: Sequence[int], data: list[Any]) -> list[Any]:
    nested: list[int] = []
    while data and type(data[0]) is list:
        width = len(data[0])
        if not all(type(part) is list and len(part) == width for part in data):
            raise BadTensorError(f"input {name!r}: data is nested unevenly")
        nested.append(len(data) // math.prod(nested))
        data = list(chain.from_iterable(data))
    nested.append(len(data) // math.prod(nested) if math.prod(nested) else 0)
    if nested != list(shape):
        raise BadTensorError(f"input {name!r}: shape is {list(shape)}, data is nested as {nested}")
    return data


def _texts(data: list[Any], *, base64_bytes: bool) -> Array:
    values = np.empty(len(data), dtype=object)
    for position, value in enumerate(data):
        if type(value) is not str:
            raise BadElementError(position, f"is {_shown(value)}: BYTES takes text")
        values[position] = _decoded(position, value) if base64_bytes else value
    return values


def _decoded(position: int, value: str | bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadElementError(position, f"is no base64: {error}") from None


def from_base64(name: str, values: Array) -> Array:
    """BYTES elements that hold base64 as the bytes they stand for; BadTensorError names one.

    Source: MLServer, "Content Types": a client may say base64 over every protocol.
    """
    decoded = np.empty(values.size, dtype=object)
    try:
        for position, value in enumerate(values.ravel()):
            decoded[position] = _decoded(position, value)
    except BadElementError as error:
        raise BadTensorError(f"input {name!r}: data[{error.position}] {error.reason}") from None
    return decoded.reshape(values.shape)


def from_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview | bytes) -> Array:
    """Little-endian bytes in row-major order as an array of ``shape``; BYTES give bytes objects.

    The array may be a read-only view of ``data``. BadTensorError names the input where there are
    more or fewer bytes than the shape says.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return shaped(name, shape, _split_bytes(name, count, data))
    dtype = NUMPY[datatype]
    if len(data) != count * dtype.itemsize:
        raise BadTensorError(
            f"input {name!r}: shape {list(shape)} of {datatype} takes {count * dtype.itemsize} "
            f"bytes, got {len(data)}"
        )
    if datatype == "BOOL":
        flags: Array = np.frombuffer(data, dtype=np.uint8) != 0
        return shaped(name, shape, flags)
    values: Array = np.frombuffer(data, dtype=dtype)
    return shaped(name, shape, values if values.flags.aligned else values.copy())


def too_many_texts(name: str, count: int) -> str:
    """What is said of a tensor of more than ``MOST_TEXTS`` elements."""
    return (
        f"input {name!r}: {count} BYTES elements, at most {MOST_TEXTS} are accepted: send them in "
        "several requests"
    )


def _split_bytes(name: str, count: int, data: memoryview | bytes) -> Array:
    size = len(data)
    if count > MOST_TEXTS:
        raise BadTensorError(too_many_texts(name, count))
    if count * _LENGTH.size > size:
        raise BadTensorError(
            f"input {name!r}: {count} BYTES elements take at least {count * _LENGTH.size} bytes, "
            f"got {size}"
        )
    values = np.empty(count, dtype=object)
    at = 0
    for position in range(count):
        if at + _LENGTH.size > size:
            raise BadTensorError(f"input {name!r}: binary data ends before element {position}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > size:
            raise BadTensorError(
                f"input {name!r}: element {position} says {length} bytes, {size - at} are left"
            )
        values[position] = bytes(data[at : at + length])
        at += length
    if at != size:
        raise BadTensorError(
            f"input {name!r}: {size - at} bytes are left over after {count} elements"
        )
    return values


def as_text(name: str, values: Array) -> Array:
    """BYTES elements as the str objects ONNX Runtime's string tensors are made of."""
    flat = np.empty(values.size, dtype=object)
    for position, value in enumerate(values.ravel()):
        try:
            flat[position] = value if isinstance(value, str) else value.decode()
        except UnicodeDecodeError as error:
            raise BadTensorError(
                f"input {name!r}: element {position} is no UTF-8 text, and this model takes "
                f"text: {error}"
            ) from None
    return flat.reshape(values.shape)


def bytes_element(payload: bytes) -> bytes:
    """A payload as one element of a BYTES tensor: its length (4 bytes, little-endian) and it."""
    return _LENGTH.pack(len(payload)) + payload


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

    It writes null for NaN and infinities; see :mod:`kit.oip.non_finite`.
    """
    if values.dtype.kind in "OUS":
        return [
            value if isinstance(value, str) else value.decode("utf-8", "replace")
            for value in values.ravel()
        ]
    return np.ascontiguousarray(values).reshape(-1)


def kind_of(value: object) -> str:
    """The name of a JSON value's kind, for messages."""
    return "null" if value is None else type(value).__name__


def _shown(value: object) -> str:
    """A wrong element, cut short; containers by their kind."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | dict):
        return f"a {kind_of(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 70 else "a huge number"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"
