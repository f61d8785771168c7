"""Deadlines: how long a caller waits, and what is left of it for the next hop. All pure."""

from __future__ import annotations

from kit.http.problem import Problem
from kit.http.request_headers import parse_timeout, write_timeout


def parse(header: bytes | None, *, default: float, longest: float) -> float:
    """Seconds until the deadline: the caller's ``X-Request-Timeout``, bounded, or the default.

    Raises kit's BadTimeoutError.
    """
    seconds = None if header is None else parse_timeout(header)
    return default if seconds is None else min(seconds, longest)


def passed_on(remaining: float, *, margin: float) -> bytes:
    """The ``X-Request-Timeout`` of the next hop: what is left, less the way back."""
    return write_timeout(remaining - margin)


def exceeded(name: str) -> Problem:
    """504: the model or upstream of this name did not answer in time."""
    return Problem(
        504,
        "deadline-exceeded",
        f"{name} did not answer before the request's deadline; "
        "ask for more time with X-Request-Timeout, or make it a job",
    )
