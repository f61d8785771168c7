"""S3's notifications by webhook, beside the probes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kit.http.probes import Probes
from kit.http.problem import MEDIA_TYPE, Problem
from kit.lifecycle.health import Health
from unzip.processing.service import Service
from unzip.triggers.events import UnknownEvent, created_keys
from unzip.triggers.watcher import Watcher

_LONGEST_EVENT = 256 << 10


def create_app(service: Service, watcher: Watcher, health: Health) -> ASGIApp:
    """``POST /events`` for S3's webhook, and the probes."""

    async def events(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_EVENT:
                raise Problem(413, "event-too-large", f"more than {_LONGEST_EVENT} bytes")
        try:
            keys = created_keys(body, bucket=service.settings.bucket)
        except UnknownEvent as error:
            raise Problem(400, "unknown-event", f"{error}; send S3 event messages") from error
        if service.stop.requested.is_set():
            raise Problem(503, "draining", "another pod takes it", headers={"Retry-After": "10"})
        wanted = [key for key in keys if service.wanted(key)]
        offered = [watcher.offer(key) for key in wanted]
        if not all(offered):
            raise Problem(503, "queue-full", "send it again later", headers={"Retry-After": "10"})
        return JSONResponse({"accepted": len(wanted)}, status_code=202)

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return Response(error.body(), error.status, error.headers, MEDIA_TYPE)

    app = Starlette(
        routes=[Route("/events", events, methods=["POST"])],
        exception_handlers={Problem: problem},
    )
    return Probes(app, health, service.metrics.registry)
