"""``/livez``, ``/readyz`` and ``/metrics`` in front of any ASGI application."""

from __future__ import annotations

import json

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from kit.http import connections
from kit.lifecycle.health import Health

PATHS = frozenset({b"/livez", b"/readyz", b"/metrics"})


class Probes:
    """ASGI middleware that answers the operators' three paths and passes on the rest.

    It is plain ASGI, so it costs a request that passes through one dictionary look-up.
    """

    def __init__(
        self, app: ASGIApp, health: Health, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self.app = app
        self.health = health
        self.registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``/livez``, ``/readyz``, ``/metrics``; pass on everything else."""
        # By the path as it was sent: another spelling of it is what nobody let through by name.
        if scope["type"] != "http" or scope["raw_path"] not in PATHS:
            await self.app(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, b'{"status":"method not allowed"}', extra=[(b"allow", b"GET")])
            return
        if scope["path"] == "/metrics":
            text = generate_latest(self.registry) + generate_latest(connections.REGISTRY)
            await _answer(send, 200, text, content_type=CONTENT_TYPE_LATEST)
            return
        livez = scope["path"] == "/livez"
        status, body = self.health.liveness() if livez else self.health.readiness()
        await _answer(send, status, json.dumps(body).encode())


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    *,
    content_type: str = "application/json",
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
