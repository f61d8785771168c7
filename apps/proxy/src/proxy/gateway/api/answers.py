"""Answers and problems as FastAPI sends them."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request as HttpRequest
from fastapi import Response

from kit.http.problem import MEDIA_TYPE, Problem
from proxy.gateway.api.requests import current


def unknown(kind: str, name: str, known: dict[str, Any]) -> Problem:
    """404 that names what there is."""
    names = ", ".join(sorted(known)) or "none"
    return Problem(404, f"unknown-{kind}", f"there is no {kind} {name!r}; there are: {names}")


def json_answer(
    document: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer, without FastAPI's walk over the document."""
    return Response(orjson.dumps(document), status, headers=headers, media_type="application/json")


def problem_response(http: HttpRequest, problem: Problem) -> Response:
    """A problem as FastAPI's answer."""
    request = current(http)
    request.error = problem.type
    return Response(
        problem.body(request_id=request.request_id.decode()),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={"cache-control": "no-store", **problem.headers},
    )
