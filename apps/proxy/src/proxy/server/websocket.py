"""uvicorn's WebSocket protocol, corrected where small frames cost more than they carry.

A read of 256 kB holds 43,000 pongs, which are parsed in a second while nothing else runs: four
connections that sent nothing else kept a server from everybody. Here a read is parsed in slices,
other work in between, and a connection whose frames are no messages is closed.
"""

from __future__ import annotations

import time
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

SLICE_BYTES = 2048
"""Bytes that are parsed in one go: some hundred frames."""
SLICE_SECONDS = 0.002
"""Seconds of parsing after which other work is done."""
MOST_CONTROL_FRAMES = 64
"""Pings and pongs of a connection within a second. Each ping is answered."""
MOST_PIECES = 4096
"""Frames of one message: with the usual 1 MiB, of 256 bytes each."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is closed (1008) where it sends more small frames than anybody needs."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._unread = b""
        self._scheduled = False
        self._control_frames = 0
        self._second = 0

    def data_received(self, data: bytes) -> None:
        """Parse what came, a slice at a time; no more is read until all of it is parsed."""
        self._unread += data
        if not self._scheduled and not self.read_paused:
            self._parse()

    async def receive(self) -> Any:
        """The next event for the application, which has time for more once it has none left."""
        message = await super().receive()
        if self._unread and not self.read_paused and not self._scheduled:
            self._later()
        return message

    def _parse(self) -> None:
        self._scheduled = False
        until = time.monotonic() + SLICE_SECONDS
        while self._unread and not self.read_paused and not self.transport.is_closing():
            data, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
            super().data_received(data)
            if self._unread and not self.read_paused and time.monotonic() >= until:
                self._later()
                return
        if self.transport.is_closing():
            self._unread = b""
        elif not self.read_paused:
            self.transport.resume_reading()

    def _later(self) -> None:
        self._scheduled = True
        self.transport.pause_reading()
        self.loop.call_soon(self._parse)

    # -- frames that carry no message --------------------------------------------------------

    def handle_ping(self) -> None:
        """Answer a ping, unless there were too many."""
        if self._few_control_frames():
            super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        """Take note of a pong, unless there were too many."""
        if self._few_control_frames():
            super().handle_pong(event)

    def handle_cont(self, event: Any) -> None:
        """Add a piece to its message, unless it has too many."""
        if len(self.frames) < MOST_PIECES:
            super().handle_cont(event)
        else:
            self._end(f"a message in more than {MOST_PIECES} frames")

    def _few_control_frames(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._control_frames = second, 0
        self._control_frames += 1
        if self._control_frames > MOST_CONTROL_FRAMES:
            self._end(f"more than {MOST_CONTROL_FRAMES} pings and pongs in a second")
            return False
        return True

    def _end(self, reason: str) -> None:
        if self.conn.close_sent is None:
            self.conn.fail(CloseCode.POLICY_VIOLATION, reason)
            self.handle_parser_exception()
