"""Reads the fields of a protobuf message, one after the other."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any


class GraphError(Exception):
    """The file is not an ONNX model this reader understands; the message says why."""


def fields(view: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or the bytes of what has a length."""
    at, end = 0, len(view)
    while at < end:
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        value: Any
        if kind == 0:
            value, at = _varint(view, at)
        elif kind == 2:
            size, at = _varint(view, at)
            if at + size > end:
                raise GraphError("the file ends in the middle of a field")
            value = view[at : at + size]
            at += size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            if at + size > end:
                raise GraphError("the file ends in the middle of a field")
            value = struct.unpack("<d" if kind == 1 else "<f", view[at : at + size])[0]
            at += size
        else:
            raise GraphError(f"field {number} is of protobuf's type {kind}")
        yield number, value


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = view[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise GraphError("a number has more than ten bytes")


def signed(value: int) -> int:
    """A number as protobuf stores negative ones."""
    return value - (1 << 64) if value >= 1 << 63 else value


def text(view: memoryview) -> str:
    """A text field."""
    return str(view, "utf-8")


def check_once(there: object, what: str) -> None:
    """GraphError where a field that may be there once was read before."""
    if there is not None:
        raise GraphError(f"the file has {what} twice")


def integers(value: Any) -> list[int]:
    """A repeated integer field's part, packed or not."""
    if isinstance(value, int):
        return [signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(signed(number))
    return numbers


def floats(value: Any, code: str) -> list[float]:
    """A repeated field of floats, packed or not; ``code`` is what ``struct`` calls them."""
    if isinstance(value, float):
        return [value]
    return [number for (number,) in struct.iter_unpack(code, value)]
