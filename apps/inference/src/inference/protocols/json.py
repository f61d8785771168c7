"""JSON requests: small ones by orjson, the numbers of large ones straight into arrays by simdjson.

orjson makes a Python object of each number, and an array is then made of those; for half a
megabyte that is most of what a request costs (docs/inference/limits.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import simdjson

from inference.errors import BadRequest
from kit import json_names

LARGE = 2048
"""Bytes from which the numbers are worth the second parser."""

_FLOATS = ("FP16", "FP32", "FP64")


def loads(document: bytes) -> Any:
    """A request's JSON; BadRequest says where it is none, or which name one object has twice.

    As ``orjson.loads`` gives it, but flat ``data`` of a floating-point input may be an array of
    float64. Whatever simdjson does not take is left to orjson, so that there is one answer and
    one message for what is wrong.
    """
    if len(document) >= LARGE and (request := _with_arrays(document)) is not None:
        return _without_repeated_names(document, request)
    return loads_plain(document)


def loads_plain(document: bytes) -> Any:
    """As :func:`loads`, with every number a Python object."""
    try:
        parsed = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"body is no JSON: {error}") from None
    return _without_repeated_names(document, parsed)


def _without_repeated_names(document: bytes, parsed: Any) -> Any:
    name = json_names.repeated_name(document, parsed)
    if name is not None:
        raise BadRequest(json_names.message(name))
    return parsed


def _with_arrays(document: bytes) -> dict[str, Any] | None:
    if b"\\u0000" in document:
        return None  # simdjson looks a name up by what stands before its first NUL
    try:
        # a parser of its own: one that is used again must outlive all it has given
        root = simdjson.Parser().parse(document)
        if not isinstance(root, simdjson.Object):
            return None
        tensors = root.get("inputs")
        if not isinstance(tensors, simdjson.Array):
            return None
        request = _members(root, apart="inputs")
        request["inputs"] = [_tensor(tensor) for tensor in tensors]
    except (RuntimeError, TypeError, ValueError):
        return None
    # a buffer is flat whatever the lists in it were: nested ones are orjson's, which tells them
    known = [request["inputs"], request.get("outputs")]
    for tensor in request["inputs"]:
        known += (tensor.get("shape"), tensor.get("data"))
    lists = sum(isinstance(value, list | np.ndarray) for value in known)
    if np.count_nonzero(np.frombuffer(document, np.uint8) == ord("[")) != lists:
        return None
    return request


def _tensor(tensor: object) -> dict[str, Any]:
    if not isinstance(tensor, simdjson.Object):
        raise TypeError("an input must be an object")
    data = tensor.get("data")
    if tensor.get("datatype") not in _FLOATS or not isinstance(data, simdjson.Array):
        return _members(tensor)
    result = _members(tensor, apart="data")
    result["data"] = np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    return result


def _members(value: simdjson.Object, *, apart: str | None = None) -> dict[str, Any]:
    """All but one of the members as Python objects; ValueError where a name is there twice."""
    names = list(value)
    if len(set(names)) != len(names):
        raise ValueError("a name is there twice, and the parsers differ in which one they take")
    return {name: _python(value[name]) for name in names if name != apart}


def _python(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value
