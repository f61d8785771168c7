"""Serving an ASGI application in a pod: uvicorn, stopped in the order Kubernetes needs."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from kit.http.connections import BoundedProtocol, ConnectionLimits
from kit.lifecycle import termination
from kit.lifecycle.health import Health
from kit.lifecycle.termination import Reason
from kit.memory.allocator import give_back_freed_memory
from kit.memory.budget import share_of_memory
from kit.settings import ServiceSettings
from kit.telemetry import logs

log = logs.get("kit.http.server")

LARGE_HEADS_SHARE = 16
"""What of the container's memory is for large heads of requests: one part in so many."""
LARGEST_WEBSOCKET_MESSAGE = 1 << 20
"""Bytes: each open WebSocket may hold one, in each direction."""
LISTENERS = 64
"""Listening sockets of a port: uvloop takes one connection from each in a cycle of the loop."""


class _Server(uvicorn.Server):
    """uvicorn that on the first SIGTERM becomes unready and goes on serving for a while.

    Endpoints and Envoys learn of a terminating pod after it got its signal, so a server that
    stops listening immediately refuses requests that are already on their way.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        health: Health,
        stop_delay: float,
        on_drain: Callable[[], object],
    ) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._health = health
        health.on_give_up = self._stop
        self._stop_delay = stop_delay
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)  # type: ignore[arg-type]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            log.info("listening", host=host, port=port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: unready, delay, drain. Second: stop now."""
        if self._health.draining or self._loop is None:
            super().handle_exit(sig, frame)
            return
        self._health.draining = True
        self._on_drain()
        log.info("draining", signal=sig, stop_delay_seconds=self._stop_delay)
        self._loop.call_soon_threadsafe(self._loop.call_later, self._stop_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def serve(
    app: ASGIApp,
    settings: ServiceSettings,
    health: Health,
    *,
    http: type[BoundedProtocol] = BoundedProtocol,
    ws: type[asyncio.Protocol] | None = None,
    on_drain: Callable[[], object] = lambda: None,
) -> None:
    """Run until SIGTERM or SIGINT, then: unready, keep serving, drain, exit.

    The process ends with the health's exit code where the service gave up, with 1 where its port
    is in use, and with 3 where the application raised an error at its start.

    ``on_drain`` is called at the signal, for work that is not a request and begins no more.
    ``http`` may be a subclass of the protocol that answers some requests itself; ``ws`` is the
    protocol of WebSockets, if there are any.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=type(http.__name__, (http,), {"limits": limits_of(settings)}),
        ws=ws or "auto",
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        date_header=False,
        proxy_headers=False,  # who asked is for the service to say, which knows its own hops
        # compressed, one read of 256 kB could hold 256 MB of messages
        ws_per_message_deflate=False,
        ws_max_size=LARGEST_WEBSOCKET_MESSAGE,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    try:
        sockets = listeners(settings.host, settings.port)
    except OSError as error:
        reason, fix = error.strerror or str(error), "stop what listens there, or set another port"
        log.error(reason, fix=fix)
        termination.leave(Reason(reason, fix))
        raise SystemExit(1) from None
    give_back_freed_memory()
    settle_garbage_collector()
    running = _Server(config, health, settings.stop_delay_seconds, on_drain)
    try:
        running.run(sockets)
    finally:  # uvicorn ends the process by itself where the application did not start
        if health.exit_code:
            raise SystemExit(health.exit_code)


def settle_garbage_collector() -> None:
    """Keep the collector from walking over modules and settings again and again.

    Requests leave no cycles, so it need not look as often as the default makes it; it took a
    tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def limits_of(settings: ServiceSettings) -> ConnectionLimits:
    """What a service's settings say about its connections."""
    return ConnectionLimits(
        connections=settings.max_connections,
        head_seconds=settings.head_seconds,
        body_seconds=settings.body_seconds,
        answer_seconds=settings.answer_seconds,
        large_heads=max(16, share_of_memory(LARGE_HEADS_SHARE) // ConnectionLimits().head_bytes),
    )


def listeners(host: str, port: int, count: int = LISTENERS) -> list[socket.socket]:
    """Sockets bound to one port, among which the kernel spreads what connects.

    With one of them a server whose loop takes ten milliseconds a cycle accepts a hundred new
    connections a second, and the others wait for seconds unseen by any limit or deadline
    (docs/inference/limits.md).
    Raises OSError that names the address where it is in use.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # Shared ports are shared with whoever asks: a second server must fail, not join.
    with _bound(family, address) as only:
        port = only.getsockname()[1]
    return [_bound(family, (address[0], port, *address[2:]), shared=True) for _ in range(count)]


def _bound(family: int, address: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and address[0] == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(
            error.errno, f"cannot listen on {address[0]} port {address[1]}: {error.strerror}"
        ) from None
    return listener
