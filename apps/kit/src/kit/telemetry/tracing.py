"""W3C trace context: who asked, carried through logs and on to the next hop."""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


class RandomHex:
    """Hex digits for ids, made many at a time; an id must be unique, not secret."""

    def __init__(self) -> None:
        self._random = random.Random()  # seeded by the system
        self._digits = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` digits. All zeros, which no id may be, never come."""
        at = self._at
        end = self._at = at + count
        if end > len(self._digits):
            self._digits = self._random.randbytes(4096).hex().encode()
            self._at = 0
            return self.take(count)
        digits = self._digits[at:end]
        return digits if digits.strip(b"0") else self.take(count)


random_hex = RandomHex()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A position in a trace: 32 hex digits of trace, 16 of span, and the sampled flag."""

    trace_id: str
    span_id: str
    sampled: bool

    def child(self) -> TraceContext:
        """The same trace with a span id of our own."""
        return TraceContext(self.trace_id, random_hex.take(16).decode(), self.sampled)

    def traceparent(self) -> str:
        """The header for the next hop."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


current: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)
request_id: ContextVar[str] = ContextVar("request_id", default="")


def parse_traceparent(header: str | None) -> TraceContext | None:
    """The context a caller sent, or None where the header is absent or malformed.

    Source: W3C Trace Context, section 3.2; an all-zero id and version ff are invalid.
    """
    match = _TRACEPARENT.match(header.strip()) if header else None
    if match is None or header is None or header.startswith("ff"):
        return None
    trace_id, span_id, flags = match.group(1), match.group(2), match.group(3)
    if header.startswith("00") and match.group(4):
        return None
    if set(trace_id) == {"0"} or set(span_id) == {"0"}:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


def new_trace(*, sampled: bool = False) -> TraceContext:
    """A fresh trace for a request that came without one."""
    return TraceContext(random_hex.take(32).decode(), random_hex.take(16).decode(), sampled)
