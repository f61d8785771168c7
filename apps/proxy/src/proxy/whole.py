"""An answer that is whole, written in one go past ASGI's two messages.

uvicorn checks every header of an answer by two regular expressions, joins the head, and writes
head and body apart. An answer a backend gave was parsed by llhttp, which lets no line feed
through, so the proxy may write it as it is. The protocol hands its cycle on in the scope;
where it does not (another server), `Gateway` sends ASGI messages.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

KEY = "slipway.cycle"
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class WholeProtocol(HttpToolsProtocol):
    """uvicorn's protocol, whose requests carry their cycle."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cast(dict[str, Any], cycle.scope)[KEY] = cycle
        super()._start_asgi_task(cycle, app)


def write(
    cycle: RequestResponseCycle,
    status: int,
    headers: list[tuple[bytes, bytes]],
    more: bytes,
    body: bytes,
) -> bool:
    """Write a whole answer; False where this connection needs the longer way.

    ``headers`` came from llhttp and carry the body's Content-Length; ``more`` is header lines.
    """
    if (
        cycle.response_started
        or cycle.disconnected
        or not cycle.keep_alive
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
        or status not in STATUS_LINES
    ):
        return False
    parts = [STATUS_LINES[status]]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    parts += (more, b"\r\n", body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(parts))
    cycle.message_event.set()
    cycle.on_response()
    return True
