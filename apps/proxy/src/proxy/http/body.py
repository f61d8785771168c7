"""The body of a caller's request: counted as it arrives, by the request's deadline."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from time import monotonic

from kit.http.problem import Problem
from kit.memory.budget import BusyError
from proxy.http.destination import Body
from proxy.http.request import Request
from proxy.server.protocol import body_that_arrived

COLLECTED_BYTES = 1024 * 1024
SLOW_UPLOAD_SECONDS = 2.0  # what a streamed body may be late, all its pauses together


class HungUp(Exception):  # noqa: N818 - what happened, not a fault
    """The caller closed the connection before the answer was there."""


def too_large(limit: int) -> Problem:
    """The answer to a body beyond the limit."""
    return Problem(
        413,
        "body-too-large",
        f"the request body is larger than {limit} bytes; send less, or raise PROXY_MAX_BODY_BYTES "
        "and PROXY_BODY_MEMORY_BYTES, of which it is the smaller one",
        headers={"connection": "close"},
    )


def hold(request: Request, size: int) -> None:
    """Count bytes of a body in memory; Problem 429 where those of others leave no room."""
    try:
        request.hold(size)
    except BusyError as error:
        problem = bodies_busy(error)
        problem.headers["connection"] = "close"  # the rest of it is not read
        raise problem from None


def bodies_busy(error: BusyError) -> Problem:
    """The answer to a body for which there is no memory now."""
    return Problem(429, "bodies-busy", str(error), headers={"retry-after": "1"})


def declared_length(request: Request, limit: int) -> int | None:
    """The Content-Length, None where the body is chunked or absent; 413 beyond ``limit``."""
    value = request.header(b"content-length")
    if value is None:
        return None
    length = int(value)
    if length > limit:
        raise too_large(limit)
    return length


async def _part(request: Request, deadline: float) -> tuple[bytes, bool]:
    """The next bytes of the body, and whether more follow; 408 where they do not come in time."""
    try:
        async with asyncio.timeout(deadline - monotonic()):
            message = await request.receive()
    except TimeoutError:
        raise Problem(
            408,
            "body-too-slow",
            "the request's body did not arrive before its deadline; send it faster, or ask "
            "for more time with X-Request-Timeout",
            headers={"connection": "close"},
        ) from None
    if message["type"] == "http.disconnect":
        raise HungUp
    return message.get("body", b""), message.get("more_body", False)


async def read_body(request: Request, limit: int) -> bytes:
    """The complete body, counted as it arrives, by the request's deadline."""
    declared_length(request, limit)
    arrived = body_that_arrived(request.scope)
    if arrived is not None:
        if len(arrived) > limit:
            raise too_large(limit)
        hold(request, len(arrived))
        request.body_bytes = len(arrived)
        return arrived
    size = 0
    begun: io.BytesIO | None = None  # it gives its bytes away, where joined parts are there twice
    while True:
        part, more = await _part(request, request.deadline)
        size += len(part)
        if size > limit:
            raise too_large(limit)
        hold(request, len(part))
        if begun is not None:
            begun.write(part)
        elif more:
            begun = io.BytesIO()
            begun.write(part)
        if not more:
            request.body_bytes = size
            return part if begun is None else begun.getvalue()


async def body_of(
    request: Request, limit: int, deadline: float, slowest: int
) -> tuple[Body, int | None]:
    """The body as bytes up to ``COLLECTED_BYTES``, as a stream from there on.

    The second value is its length, None for a stream that must be sent chunked. Nothing is asked
    of a backend before the body, or that much of it, is here: who sends slowly keeps nobody out.
    The rest of a stream keeps a backend's connection, so it must come by ``deadline`` and at
    ``slowest`` bytes a second.
    """
    length = declared_length(request, limit)
    if length is None and request.header(b"transfer-encoding") is None:
        return b"", 0
    if length is not None and length <= COLLECTED_BYTES:
        return await read_body(request, limit), length
    begun: list[bytes] = []
    size, more = 0, True
    while more and size <= COLLECTED_BYTES:
        part, more = await _part(request, deadline)
        begun.append(part)
        size += len(part)
        if size > limit:
            raise too_large(limit)
        hold(request, len(part))
    collected = b"".join(begun)
    if not more:
        request.body_bytes = size
        return collected, size
    return _streamed(request, collected, limit, deadline, slowest), length


async def _streamed(
    request: Request, collected: bytes, limit: int, deadline: float, slowest: int
) -> AsyncIterator[bytes]:
    chunked = request.header(b"content-length") is None
    part, more, size, waited = collected, True, len(collected), 0.0
    while True:
        if part:
            yield b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
        if not more:
            request.body_bytes = size
            if chunked:
                yield b"0\r\n\r\n"
            return
        began = monotonic()  # the backend's own slowness does not count against the caller
        allowed = SLOW_UPLOAD_SECONDS + (size - len(collected)) / slowest - waited
        part, more = await _part(request, min(deadline, began + allowed))
        waited += monotonic() - began
        size += len(part)
        if size > limit:
            raise too_large(limit)
