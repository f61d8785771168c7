"""Answers written in one go, past ASGI's two messages, and some without a task for them.

uvicorn checks every header of an answer by two regular expressions, joins the head, and writes
head and body apart. An answer a backend gave was parsed by llhttp, which lets no line feed
through, so the proxy may write it as it is. The protocol hands its cycle on in the scope;
where it does not (another server), `Gateway` sends ASGI messages.

A request that has arrived completely is offered to the application's ``FromMemory`` first, which
the lifespan's state holds under ``FROM_MEMORY``: what is answered from memory needs no task.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from kit.http.early_refusals import RefusingProtocol
from proxy.server import overload
from proxy.server.overload import Overload

KEY = "slipway.cycle"
FROM_MEMORY = "slipway.from_memory"
FromMemory = Callable[[RequestResponseCycle], bool]
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class ProxyProtocol(RefusingProtocol):
    """uvicorn's protocol, whose requests carry their cycle and may be answered from memory.

    The lifespan's state holds the limit of open requests under ``overload.KEY``.
    """

    _parsing = False
    _held: tuple[RequestResponseCycle, Any] | None = None

    def data_received(self, data: bytes) -> None:
        """Parse what came; then answer the request that became complete, or start its task."""
        self._parsing = True
        try:
            super().data_received(data)
        finally:
            self._parsing = False
            held, self._held = self._held, None
            if held is not None and not self._answered(held[0]):
                self._start_asgi_task(*held)

    def overloaded(self, data: bytes) -> bool:
        """Whether more requests are open than are answered in time."""
        limit: Overload | None = self.app_state.get(overload.KEY)
        if limit is None or not limit.full(len(self.tasks), data, self.loop):
            return False
        self.refusals = limit.refusals
        return True

    def refusal(self, data: bytes) -> bytes:
        """The complete answer to a request that is refused unparsed."""
        limit: Overload = self.app_state[overload.KEY]
        return limit.refusal(data, self.loop)

    def _answered(self, cycle: RequestResponseCycle) -> bool:
        answer: FromMemory | None = self.app_state.get(FROM_MEMORY)
        return answer is not None and not cycle.more_body and answer(cycle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._parsing:  # its body may lie behind the head that was just read
            self._held = cycle, app
            return
        # A pipelined request comes here out of the answer before it, and so gets a task in any
        # case: answered without one, a row of them would be as many calls deep.
        cycle.scope[KEY] = cycle  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)


def body_that_arrived(scope: Scope) -> bytes | None:
    """The body of a request that is complete, without waiting; None where some is to come.

    It is read from uvicorn as its ``receive`` would, which is asked for no more of it.
    """
    cycle: RequestResponseCycle | None = scope.get(KEY)
    if (
        cycle is None
        or cycle.more_body
        or cycle.disconnected
        or cycle.waiting_for_100_continue  # it gets its 100 first, though it did not wait
    ):
        return None
    body, cycle.body = cycle.body, bytearray()
    cycle.flow.resume_reading()
    return bytes(body)


def may_write(cycle: RequestResponseCycle, status: int) -> bool:
    """Whether an answer can be written in one go; False where ASGI messages are needed."""
    return not (
        cycle.response_started
        or cycle.disconnected
        or not cycle.keep_alive
        or cycle.flow.write_paused
        or cycle.scope["method"] == "HEAD"
        or status not in STATUS_LINES
    )


def write(cycle: RequestResponseCycle, status: int, lines: bytes, body: bytes) -> None:
    """Write a complete answer that ``may_write`` allows.

    ``lines`` are header lines with their line ends, the body's Content-Length among them; their
    values came from llhttp or are our own.
    """
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join((STATUS_LINES[status], lines, b"\r\n", body)))
    cycle.message_event.set()
    cycle.on_response()


def lines_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Headers as lines."""
    parts: list[bytes] = []
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)
