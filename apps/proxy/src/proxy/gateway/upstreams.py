"""`/api/<key>/…`: which upstream a request goes to, and the way there."""

from __future__ import annotations

from time import monotonic

from kit.http.problem import Problem
from proxy.http import headers, paths
from proxy.http.forward import forward, forwarding_headers
from proxy.http.paths import BadPathError
from proxy.http.request import Request
from proxy.policy import authentication
from proxy.services import Services
from proxy.settings import ProxySettings

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


def upstream_of(settings: ProxySettings, request: Request, raw: bytes) -> tuple[str, bytes, bool]:
    """The upstream's key, the path there, and whether the request may be repeated.

    Problem 400, 403, 404 or 405.
    """
    below = raw.removeprefix(b"/api/")
    try:
        key = paths.upstream_key(below, settings.upstreams)
    except BadPathError as error:
        raise Problem(400, "bad-path", str(error)) from None
    if key is None:
        raise Problem(404, "unknown-upstream", "no upstream is configured for this path")
    upstream = settings.upstreams[key]
    rest = b"/" + below[len(key) :].lstrip(b"/") if key else b"/" + below
    if upstream.paths and not any(
        rest == prefix.encode() or rest.startswith(prefix.rstrip("/").encode() + b"/")
        for prefix in upstream.paths
    ):
        raise Problem(404, "unknown-upstream", f"{key} is not open at this path")
    method = "GET" if request.scope["type"] == "websocket" else request.method
    if method not in upstream.methods:
        allowed = ", ".join(upstream.methods)
        raise Problem(
            405, "method-not-allowed", f"{key} takes {allowed}", headers={"allow": allowed}
        )
    authentication.allow(request, "api", upstream.scope or key)
    return key, rest if upstream.strip_prefix else raw, method in IDEMPOTENT


async def pass_on(services: Services, request: Request, raw: bytes) -> None:
    """Send an admitted request to its upstream. ``raw`` is its path, checked."""
    settings = services.settings
    key, rest, repeatable = upstream_of(settings, request, raw)
    upstream = settings.upstreams[key]
    request.route = f"/api/{key}/{{path}}" if key else "/api/{path}"
    query = request.scope["query_string"]
    target = rest + (b"?" + query if query else b"")
    more = forwarding_headers(request)
    dropped = headers.DROPPED_WITH_CREDENTIALS
    if upstream.forward_authorization:
        dropped = headers.DROPPED
    await forward(
        request,
        services.upstreams[key],
        target,
        limit=services.body_limit,
        margin=settings.hop_margin_seconds,
        dropped=dropped,
        repeatable=repeatable,
        now=monotonic(),
        more=more,
        idle_seconds=upstream.idle_seconds,
        slowest=settings.upload_bytes_per_second,
    )
