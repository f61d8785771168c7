"""What the routes read of a request: the proxy's own view of it, its owner, its parameters."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path
from fastapi import Request as HttpRequest

from proxy.config.types import NAME
from proxy.http.request import Request
from proxy.policy.authentication import unauthorized

Name = Annotated[str, Path(pattern=NAME, examples=["digits"])]
ContentType = Annotated[str | None, Header(include_in_schema=False)]


def current(request: HttpRequest) -> Request:
    """The proxy's own view of a request."""
    found: Request = request.scope["slipway"]
    return found


def owner_of(request: Request) -> str:
    """Whom jobs and prepared inputs belong to; empty where nobody is known.

    Problem 401 for a request that was not admitted: it is not the same as an unknown caller.
    """
    if not request.admitted:
        raise unauthorized("the request's credential was not checked", error="")
    return request.caller.name if request.caller is not None else ""
