"""The HTTP protocol with refusals that are written before anything is parsed.

At ten thousand requests a second saying no must cost far less than saying yes. A request that
is complete, on a connection that is between requests, is refused by its bytes; whatever is
unusual about it (a body in pieces, an upgrade, a second request behind it) leaves it to the
parser.
"""

from __future__ import annotations

import re

from kit.http.connections import BoundedProtocol
from kit.http.refusals import Refusals

_HEAD_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"[A-Z]{3,7} /[^ ]* HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\ncontent-length:?[ \t]*([^\r]*[^\r \t])")
_NOT_PLAIN = re.compile(
    rb"\n(?:transfer-encoding|expect|upgrade|connection:(?![ \t]*keep-alive\r))"
)
LINGER = 1.0
"""Seconds a caller has to read its refusal where the rest of its request is left unread."""
_MOST_HELD = 64 * 1024
"""Bytes behind a refused request that are kept while it waits; then the socket is left unread."""


def is_whole_request(data: bytes) -> bool:
    """Whether ``data`` is one complete, plain HTTP/1.1 request and nothing beside it."""
    end = data.find(_HEAD_END)
    if end < 0 or not _REQUEST_LINE.match(data):
        return False
    head = data[: end + 2].lower()
    if _NOT_PLAIN.search(head):
        return False
    size = 0
    if b"\ncontent-length" in head:
        lengths = _LENGTH.findall(head)
        if len(lengths) != 1 or not lengths[0].isdigit():
            return False
        size = int(lengths[0])
    return end + len(_HEAD_END) + size == len(data)


class RefusingProtocol(BoundedProtocol):
    """A subclass says when the server is overloaded and what the refusal is."""

    refusals: Refusals
    _refused: bytes | None = None
    """The request that waits for its refusal."""
    _behind = b""
    """What the caller sent after it."""

    @property
    def waiting(self) -> bool:
        """Whether nobody would lose an answer if the connection were closed now."""
        return self._refused is None and super().waiting

    def overloaded(self, data: bytes) -> bool:
        """Whether a request that begins with ``data`` has to be refused. Called often."""
        raise NotImplementedError

    def refusal(self, data: bytes) -> bytes:
        """The complete answer to a refused request; it is counted here."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Refuse a complete request unparsed where the server is overloaded, else parse it."""
        if self._refused is not None:
            self._behind += data
            if len(self._behind) > _MOST_HELD:
                self.flow.pause_reading()
            return
        if (
            not self.inside
            and (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
            and self.overloaded(data)
            and is_whole_request(data)
        ):
            self._refused = data
            self.answered_unparsed()
            self.refusals.add(self.write_refusal, self.loop)
            return
        super().data_received(data)

    def write_refusal(self) -> None:
        """Answer the request that waits for its refusal, and go on with what came after it."""
        data, self._refused = self._refused, None
        if data is None or self.transport.is_closing():
            return
        self.transport.write(self.refusal(data))
        behind, self._behind = self._behind, b""
        if behind:
            self.flow.resume_reading()
            self.data_received(behind)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The caller sends nothing more: it gets the refusal now that it would get later."""
        self.write_refusal()
        return super().eof_received()

    def close_unread(self) -> None:
        """Close the connection behind an answer to a request that is left unread.

        Closed immediately it would be reset, which may take the answer from the caller.
        """
        self.transport.pause_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.abort)

    def shutdown(self) -> None:
        """The server stops: say no to who waits for it before the connection is closed."""
        self.write_refusal()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone."""
        self._refused = None
        super().connection_lost(exc)
