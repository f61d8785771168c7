"""The headers that say whose request it is and how long it may take: one set of rules.

Every service reads them with these functions, so that what one of them takes all of them take,
and a request keeps its identity from the gateway to the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from kit.telemetry import tracing
from kit.telemetry.tracing import TraceContext, random_hex

REQUEST_ID = b"x-request-id"
REQUEST_TIMEOUT = b"x-request-timeout"
TRACEPARENT = b"traceparent"
SHADOW = b"x-slipway-shadow"

SENT_ONCE = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"content-type",
        b"idempotency-key",
        b"inference-header-content-length",
        b"x-slipway-model",
    }
)
"""What one server may take the first of, and the next one the last of: two of them are refused."""

LONGEST_HOST = 300
"""Bytes: more than a name of 253 and its port."""
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(:\d{1,5})?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
_TIMEOUT = re.compile(rb"(\d{1,15}(?:\.\d{1,15})?)(us|ms|s|m|h)?")
_UNITS = {b"us": 1e-6, b"ms": 1e-3, b"s": 1.0, b"m": 60.0, b"h": 3600.0}


class RepeatedHeaderError(ValueError):
    """A header of ``SENT_ONCE`` that was sent twice."""


class BadTimeoutError(ValueError):
    """An X-Request-Timeout that is not a time."""


def is_host(value: bytes) -> bool:
    """Whether a Host header is a host name or address with an optional port, or empty."""
    return len(value) <= LONGEST_HOST and _is_written_like_host(value)


@lru_cache(maxsize=256)
def _is_written_like_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def check_sent_once(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """RepeatedHeaderError names the header that stands twice and may stand once."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in SENT_ONCE:
            if name in seen:
                raise RepeatedHeaderError(f"the request has more than one {name.decode()} header")
            seen.add(name)


def valid_request_id(value: bytes | None) -> bytes | None:
    """A caller's request id where it can stand in a header, a log line and a URL, else None.

    One to 128 letters, digits and ``. _ : @ / + = -``.
    """
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def request_id_of(value: bytes | None) -> bytes:
    """The caller's request id where it is valid, else a new one."""
    if value is not None and _REQUEST_ID.fullmatch(value):
        return value
    return new_request_id()


def parse_timeout(value: bytes) -> float | None:
    """``X-Request-Timeout`` in seconds; None for 0, by which a caller leaves it to the service.

    ``2.5``, ``2.5s`` and ``2500ms`` are the same; the units are us, ms, s, m and h.
    BadTimeoutError says what is no time.
    """
    match = _TIMEOUT.fullmatch(value.strip(b" \t"))
    if match is None:
        raise BadTimeoutError(
            f"X-Request-Timeout is {value[:50].decode('latin-1')!r}: it must be seconds such as "
            "`2.5`, or a number with us, ms, s, m or h, such as `2500ms`; 0 sets no limit"
        )
    return float(match[1]) * _UNITS[match[2] or b"s"] or None


def write_timeout(seconds: float) -> bytes:
    """The ``X-Request-Timeout`` for a next hop: at least 1 ms, for 0 would set no limit."""
    return b"%.3f" % max(0.001, seconds)


def trace_of(sent: bytes | None) -> tuple[TraceContext | None, TraceContext | None]:
    """The caller's place in its trace and our own below it; both None for a header that is none."""
    caller = None if sent is None else tracing.parse_traceparent(sent.decode("latin-1"))
    return caller, None if caller is None else caller.child()


def is_shadow_host(host: bytes) -> bool:
    """Whether a Host header marks a mirrored copy: Istio appends ``-shadow`` to the name."""
    return b"-shadow" in host and host.rsplit(b":", 1)[0].endswith(b"-shadow")


def new_request_id() -> bytes:
    """An id for a request that came without one: 32 hex digits."""
    return random_hex.take(32)
