"""Deadlines: how long a caller waits, and what is left of it for the next hop. All pure."""

from __future__ import annotations

import re

from kit.problem import Problem

_SECONDS = re.compile(r"^(\d{1,7}(?:\.\d{1,6})?)(ms|s)?\Z")


class BadTimeoutError(ValueError):
    """An X-Request-Timeout that is not a time."""


def parse(header: bytes | None, *, default: float, longest: float) -> float:
    """Seconds until the deadline: the caller's ``X-Request-Timeout``, bounded, or the default.

    ``2.5``, ``2.5s`` and ``2500ms`` are the same.
    """
    if header is None:
        return default
    match = _SECONDS.match(header.decode("latin-1").strip())
    if match is None:
        raise BadTimeoutError("X-Request-Timeout must be seconds such as `2.5`, or `2500ms`")
    seconds = float(match.group(1)) / (1000.0 if match.group(2) == "ms" else 1.0)
    if seconds <= 0:
        raise BadTimeoutError("X-Request-Timeout must be above 0")
    return min(seconds, longest)


def passed_on(remaining: float, *, margin: float) -> bytes:
    """The ``X-Request-Timeout`` of the next hop: what is left, less the way back."""
    return b"%.3f" % max(0.001, remaining - margin)


def exceeded(name: str) -> Problem:
    """504: the model or upstream of this name did not answer in time."""
    return Problem(
        504,
        "deadline-exceeded",
        f"{name} did not answer before the request's deadline; "
        "ask for more time with X-Request-Timeout, or make it a job",
    )
