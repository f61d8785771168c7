"""The body of a request to `/v1`: whole, and without its Content-Encoding."""

from __future__ import annotations

from contextlib import AsyncExitStack

import orjson

from kit import content_coding
from kit.content_coding import (
    MOST_UNPACKED,
    BadCodedBodyError,
    UnknownCodingError,
    UnpackedTooLargeError,
)
from kit.decoding import BusyError
from kit.problem import Problem
from proxy.context import Request
from proxy.forward import read_body
from proxy.predict import JSON
from proxy.services import Services

SMALL = 16 * 1024
"""Bytes of JSON that are parsed while the caller waits for a job's id."""


async def payload_of(services: Services, request: Request) -> bytes:
    """The body as it was before it was compressed, at most ``max_body_bytes`` either way.

    What compressed bodies may become is held, for all of them together, until the request ends.
    Problem 400, 413, 415 or 429.
    """
    limit = services.settings.max_body_bytes
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
    if not codings or not body:
        return body
    request.held = AsyncExitStack()
    try:
        size = min(limit, len(body) * MOST_UNPACKED ** len(codings))
        await request.held.enter_async_context(services.unpacking.room(size, "the body"))
        for coding in codings:
            packed = body
            body = await services.unpacking.thread(
                lambda packed=packed, coding=coding: content_coding.unpack(packed, coding, limit)  # type: ignore[misc]
            )
    except BusyError as error:
        raise Problem(429, "decoding-busy", str(error), headers={"retry-after": "1"}) from None
    except BadCodedBodyError as error:
        raise Problem(400, "bad-input", str(error)) from None
    except UnpackedTooLargeError as error:
        raise Problem(413, "body-too-large", str(error)) from None
    return body


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
            taken = isinstance(orjson.loads(payload), dict | list)
        except orjson.JSONDecodeError as error:
            raise Problem(400, "bad-input", f"the body is not JSON: {error}") from None
    else:
        taken = payload.lstrip(b" \t\r\n")[:1] in (b"{", b"[")
    if not taken:
        raise Problem(
            400,
            "bad-input",
            "the body must be a JSON object with `instances` or `inputs`, or a list of rows",
        )
