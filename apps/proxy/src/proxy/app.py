"""The proxy put together: `create_app(settings)`, and its worker: `create_worker(settings)`."""

from __future__ import annotations

import asyncio
import secrets
import socket

from starlette.types import ASGIApp, Receive, Scope, Send

from kit.http.probes import Probes
from kit.lifecycle.health import Health
from kit.telemetry.spans import Spans
from proxy.gateway.api.application import create_api
from proxy.gateway.asgi import Gateway
from proxy.services import START_FIX, Services
from proxy.settings import ProxySettings
from proxy.telemetry.metrics import Metrics
from proxy.worker.loop import Worker


def create_app(
    settings: ProxySettings, health: Health | None = None, spans: Spans | None = None
) -> ASGIApp:
    """The gateway as an ASGI application; it opens its connections when the lifespan starts."""
    health = health or Health()
    health.wait_for("start", "starting")
    metrics = Metrics()
    services = Services(settings, health, metrics, spans)
    gateway = Gateway(services, create_api(services), health)
    return Probes(gateway, health, metrics.registry())


def create_worker(
    settings: ProxySettings, health: Health | None = None, spans: Spans | None = None
) -> ASGIApp:
    """The job worker behind probes and metrics; it works while the lifespan does."""
    health = health or Health()
    health.wait_for("redis", "not reached yet")
    metrics = Metrics()
    services = Services(settings, health, metrics, spans, service="worker")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _work(services, receive, send)
            return
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return Probes(app, health, metrics.registry())


async def _work(services: Services, receive: Receive, send: Send) -> None:
    await receive()
    try:
        await services.start()
    except Exception as error:
        services.health.give_up("start", f"the worker cannot start: {error}", START_FIX)
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    name = services.settings.pod_name or socket.gethostname()
    # A process that is started again in the same pod is another worker: the one before has died.
    worker = Worker(services, f"{name}-{secrets.token_hex(4)}")
    watch = services.watch_queues()
    working = asyncio.create_task(worker.run())

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            services.health.failed = f"the worker failed: {error!r}"

    working.add_done_callback(ended)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    worker.stop()
    await asyncio.gather(working, return_exceptions=True)
    watch.stop()
    await services.stop()
    await send({"type": "lifespan.shutdown.complete"})
