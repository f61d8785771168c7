"""When the proxy has more requests open than its loop gets round to in time, and what it says.

An answer costs the proxy 62 us of its loop, and a refusal after routing, credentials and body
cost 91: past its peak it answered a fifth of it. Here the refusal is written from the bytes of
the request (`kit.http.early_refusals`), in a bounded share of the time.

The limit follows how long an iteration of the loop takes, not how long backends take: a thousand
requests that wait for a slow backend cost nothing, three hundred that want an answer now do.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import monotonic

from kit.http.admission import Admission
from kit.http.problem import MEDIA_TYPE, Problem
from kit.http.refusals import RefusalCount, Refusals
from kit.http.request_headers import request_id_of

KEY = "slipway.overload"
FLOOR = 256
"""Requests that may be open however long an iteration takes: 16 ms of answering."""
PROBE_SECONDS = 0.005
"""Pause between two measurements of an iteration of the loop."""
EXEMPT = (b"GET /livez", b"GET /readyz", b"GET /metrics")

_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_DETAIL = "the proxy has as many requests under way as it answers in time; come back shortly"
_ID = "<id>"


def _prepared(problem: Problem) -> tuple[bytes, bytes]:
    """Its body before and after the request id."""
    before, _, after = problem.body(request_id=_ID).partition(_ID.encode())
    return before, after


_PLAIN = _prepared(Problem(429, "overloaded", _DETAIL))
# with `error` too, where the protocol's clients look
_INFER = _prepared(Problem(429, "overloaded", _DETAIL, error=_DETAIL))
_HEAD = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: %b\r\ncache-control: no-store\r\n"
    b"retry-after: 1\r\nx-request-id: %%b\r\ncontent-length: %%d\r\n\r\n" % MEDIA_TYPE.encode()
)


class Overload:
    """The proxy's limit of open requests. Use it from the event loop only."""

    def __init__(
        self,
        *,
        target: float,
        ceiling: int,
        report: Callable[[str, int], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``target`` is the longest iteration of the loop in seconds.

        ``report`` gets "infer" or "other" and how many were refused, about once a second.
        """
        self.admission = Admission(
            target=target, floor=FLOOR, ceiling=ceiling, start=FLOOR, clock=clock
        )
        self.refusals = Refusals()
        self.count = RefusalCount(report)
        self._clock = clock
        self._probing = False

    def full(self, open_requests: int, data: bytes, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a request that begins with ``data`` has to be refused: called for each."""
        if not self._probing:
            self._probing = True
            loop.call_soon(self._begin, loop)
        admission = self.admission
        admission.opened(open_requests)
        return open_requests >= admission.limit and not data.startswith(EXEMPT)

    def refusal(self, data: bytes, loop: asyncio.AbstractEventLoop) -> bytes:
        """The complete answer to a refused request."""
        match = _REQUEST_ID.search(data, 0, data.find(_HEAD_END) + 2)
        identity = request_id_of(match[1] if match else None)
        infer = data.startswith(b"/v2", data.find(b" ", 0, 10) + 1)
        before, after = _INFER if infer else _PLAIN
        self.count.add("infer" if infer else "other", loop)
        body = before + identity + after
        return _HEAD % (identity, len(body)) + body

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._end, loop, self._clock())

    def _end(self, loop: asyncio.AbstractEventLoop, began: float) -> None:
        """One iteration after :meth:`_begin`: everything that was ready was read and run once."""
        self.admission.waited(self._clock() - began)
        loop.call_later(PROBE_SECONDS, self._pause_over)

    def _pause_over(self) -> None:
        self._probing = False
