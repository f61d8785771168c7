"""Parameters of the protocol that REST and gRPC share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inference.engine.classification import class_count
from inference.engine.request import InferRequest
from inference.errors import BadRequest
from inference.protocols.unsupported import check_tensor
from kit.oip.integers import integer_of

MAX_DIGITS = 18


def timeout_of(microseconds: object) -> float:
    """The ``timeout`` parameter in seconds; 0 means none, as in Triton."""
    if type(microseconds) is str and len(microseconds) <= MAX_DIGITS and microseconds.isdecimal():
        found: int | None = int(microseconds)
    else:
        found = integer_of(microseconds)
    if found is None or found < 0:
        raise BadRequest(
            f"parameters.timeout is {repr(microseconds)[:50]}: it must be an integer, a number of "
            f"microseconds, of at most {MAX_DIGITS} digits"
        )
    return found / 1e6 or math.inf


def ask_output(name: str, parameters: Mapping[str, Any], result: InferRequest) -> None:
    """Take the parameters of a requested output that both protocols have."""
    check_tensor("output", name, parameters)
    if "classification" in parameters:
        count = class_count(parameters["classification"], name)
        if count:
            result.classes = result.classes or {}
            result.classes[name] = count


def flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise BadRequest(f"parameters.{name} is {value!r}: it must be true or false")
    return value
