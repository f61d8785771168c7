"""The body of a request to `/v1`, complete and without its Content-Encoding."""

from __future__ import annotations

import asyncio

import orjson

from kit.http import content_coding
from kit.http.content_coding import (
    MOST_UNPACKED,
    BadCodedBodyError,
    UnknownCodingError,
    UnpackedTooLargeError,
)
from kit.http.problem import Problem
from kit.memory.budget import BusyError
from proxy.http.body import bodies_busy, read_body
from proxy.http.request import Request
from proxy.predictions.inputs import JSON
from proxy.services import Services

SMALL = 16 * 1024
"""Bytes of JSON that are parsed while the caller waits for a job's id."""


async def payload_of(services: Services, request: Request) -> bytes:
    """The body as it was before it was compressed, at most ``body_limit`` bytes either way.

    Problem 400, 413, 415 or 429.
    """
    limit = services.body_limit
    encoding = request.joined(b"content-encoding")
    try:
        codings = content_coding.codings((encoding or b"").decode("latin-1"))
    except UnknownCodingError as error:
        raise Problem(
            415,
            "unsupported-media-type",
            str(error),
            headers={"accept-encoding": "gzip, deflate", "connection": "close"},
        ) from None
    body = await read_body(request, limit)
    for coding in codings if body else ():
        body = await _unpacked(services, request, body, coding)
    return body


async def _unpacked(services: Services, request: Request, body: bytes, coding: str) -> bytes:
    """What a body becomes at most is held while it is unpacked, and then what it became."""
    limit = services.body_limit
    most = min(limit, len(body) * MOST_UNPACKED)
    try:
        async with services.bodies.room(most, "the unpacked body") as held:
            plain = await asyncio.to_thread(content_coding.unpack, body, coding, limit)
            held.keep(0)
            request.hold(len(plain))  # no more than was held, and nobody ran in between
    except BusyError as error:
        raise bodies_busy(error) from None
    except BadCodedBodyError as error:
        raise Problem(400, "bad-input", str(error)) from None
    except UnpackedTooLargeError as error:
        raise Problem(413, "body-too-large", str(error)) from None
    return plain


def check_form(payload: bytes, kind: str) -> None:
    """Problem 400 for a job's input that no model can take, so that it is not lost later.

    Small JSON is parsed; of large JSON the first sign is looked at, the worker parses the rest.
    """
    if not payload:
        raise Problem(400, "empty-body", "the request has no body; send an image, JSON or CSV")
    if kind != JSON:
        return
    if len(payload) <= SMALL:
        try:
            acceptable = isinstance(orjson.loads(payload), dict | list)
        except orjson.JSONDecodeError as error:
            raise Problem(400, "bad-input", f"the body is not JSON: {error}") from None
    else:
        acceptable = payload.lstrip(b" \t\r\n")[:1] in (b"{", b"[")
    if not acceptable:
        raise Problem(
            400,
            "bad-input",
            "the body must be a JSON object with `instances` or `inputs`, or a list of rows",
        )
