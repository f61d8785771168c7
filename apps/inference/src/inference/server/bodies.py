"""Bodies of requests, within their limits, and the headers that say how to read them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import Receive

from inference.errors import (
    BadRequest,
    Cancelled,
    SlowBody,
    TooLarge,
    UnsupportedMediaType,
)
from kit.http import content_coding
from kit.http.content_coding import BadCodedBodyError, UnknownCodingError, UnpackedTooLargeError
from kit.http.request_headers import RepeatedHeaderError, check_sent_once

if TYPE_CHECKING:
    pass


SLOW_BODY = "the request's time ran out before its body was there"

Headers = list[tuple[bytes, bytes]]


def content_length(value: bytes | None, name: str) -> int | None:
    """A header that holds a length; BadRequest names it where it does not."""
    if value is None:
        return None
    if not value.isdigit() or len(value) > 15:
        shown = value[:50].decode("latin-1")
        raise BadRequest(f"{name} is {shown!r}: it must be an integer of at most 15 digits")
    return int(value)


def settle_repeated(headers: dict[bytes, bytes], pairs: Headers) -> None:
    """Make one list of the lines of Content-Encoding; BadRequest for what may stand only once."""
    coded = [value for name, value in pairs if name == b"content-encoding"]
    if len(coded) > 1:
        headers[b"content-encoding"] = b", ".join(coded)
    try:
        check_sent_once(pairs)
    except RepeatedHeaderError as error:
        raise BadRequest(f"{error}: send it once") from None


async def read_body(
    receive: Receive,
    limit: int,
    *,
    seconds: float,
    length: bytes | None,
    hold: Callable[[int], None],
) -> bytes:
    """The body as it was sent; TooLarge as soon as more than ``limit`` bytes are announced or come.

    Chunked bodies count as they arrive. SlowBody where it is not there within ``seconds``,
    Cancelled where the caller hangs up before the end. ``hold`` is given the
    number of bytes that came, and raises where there is no room for them.
    """
    if length is not None and (content_length(length, "Content-Length") or 0) > limit:
        raise TooLarge(
            f"body of {length.decode()} bytes: at most {limit} are accepted (max_body_bytes, "
            "body_memory_bytes)"
        )
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            return await _receive_all(receive, limit, hold)
    except TimeoutError:
        raise SlowBody(SLOW_BODY) from None


def codings(encoding: bytes | None) -> list[str]:
    """What was done to a body, the last first; UnsupportedMediaType names one not known."""
    try:
        return [] if encoding is None else content_coding.codings(encoding.decode("latin-1"))
    except UnknownCodingError as error:
        raise UnsupportedMediaType(str(error)) from None


async def _receive_all(receive: Receive, limit: int, hold: Callable[[int], None]) -> bytes:
    size = 0
    begun: io.BytesIO | None = None  # it gives its bytes away, where joined parts are there twice
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the caller hung up")
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > limit:
            raise TooLarge(
                f"body of more than {limit} bytes: that is the limit (max_body_bytes, "
                "body_memory_bytes)"
            )
        hold(len(part))
        if begun is None and not more:
            return part
        begun = begun or io.BytesIO()
        begun.write(part)
        if not more:
            return begun.getvalue()


def unpack(body: bytes, coding: str, limit: int) -> bytes:
    """A gzip or deflate body, never more than ``limit`` bytes of it in memory."""
    try:
        return content_coding.unpack(body, coding, limit)
    except BadCodedBodyError as error:
        raise BadRequest(str(error)) from None
    except UnpackedTooLargeError as error:
        raise TooLarge(str(error)) from None


async def hung_up(receive: Receive) -> None:
    """Returns when the caller is gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
