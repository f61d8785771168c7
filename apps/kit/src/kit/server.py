"""Serving an ASGI application in a pod: uvicorn, stopped in the order Kubernetes needs."""

from __future__ import annotations

import asyncio
from types import FrameType
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from kit import logs
from kit.health import Health
from kit.settings import ServiceSettings

log = logs.get("kit.server")


class _Server(uvicorn.Server):
    """uvicorn that on the first SIGTERM turns unready and goes on serving for a while.

    Endpoints and Envoys learn of a terminating pod after it got its signal, so a server that
    stops listening at once refuses requests that are already on their way.
    """

    def __init__(self, config: uvicorn.Config, health: Health, stop_delay: float) -> None:
        super().__init__(config)
        self._health = health
        self._stop_delay = stop_delay
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: unready, delay, drain. Second: stop now."""
        if self._health.draining or self._loop is None:
            super().handle_exit(sig, frame)
            return
        self._health.draining = True
        log.info("draining", signal=sig, stop_delay_seconds=self._stop_delay)
        self._loop.call_soon_threadsafe(self._loop.call_later, self._stop_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def serve(
    app: ASGIApp,
    settings: ServiceSettings,
    health: Health,
    *,
    http: Literal["httptools"] | type[asyncio.Protocol] = "httptools",
) -> None:
    """Run until SIGTERM or SIGINT, then: unready, keep serving, drain, exit.

    ``http`` may be a subclass of uvicorn's own protocol that answers some requests itself.
    """
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=http,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # who asked is for the service to say, which knows its own hops
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    _Server(config, health, settings.stop_delay_seconds).run()
