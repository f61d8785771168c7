"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:slipway:problem:"


MOST_SAID = 2000
"""Characters of an error that are sent and logged: it may quote what a caller sent, of any size."""


def shortened(text: str) -> str:
    """``text``, or its beginning and its end where it is longer than an error may be."""
    if len(text) <= MOST_SAID:
        return text
    left_out = len(text) - MOST_SAID
    return f"{text[: MOST_SAID - 500]} … {left_out} characters left out … {text[-500:]}"


class Problem(Exception):  # noqa: N818 - the RFC calls it a problem
    """An answer that is an error: raise it anywhere below a request.

    ``type`` is a short kebab-case name that the docs explain (``unknown-model``); ``detail``
    names the thing, the value and the fix. ``extra`` becomes members of the body.
    """

    def __init__(
        self,
        status: int,
        type: str,  # the RFC's own word
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(shortened(detail))
        self.status = status
        self.type = type
        self.detail = shortened(detail)
        self.headers = dict(headers or {})
        self.extra = extra

    def body(self, *, request_id: str = "") -> bytes:
        """The JSON document, UTF-8."""
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + self.type,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        if request_id:
            document["request_id"] = request_id
        return json.dumps(document, ensure_ascii=False).encode()
