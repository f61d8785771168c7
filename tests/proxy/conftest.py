"""A proxy on a real socket, and neighbours that can be told how to behave."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from starlette.types import ASGIApp

from kit.lifecycle.health import Health
from kit.telemetry.spans import Spans
from proxy.app import create_app, create_worker
from proxy.server.protocol import ProxyProtocol
from proxy.server.websocket import BoundedWebSocket
from proxy.settings import ProxySettings
from tests.ports import free_port
from tests.programs import require
from tests.waits import SECONDS

LABELS = [str(digit) for digit in range(10)]
METADATA: dict[str, Any] = {
    "name": "digits",
    "versions": ["1"],
    "platform": "onnx",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
    "properties": {
        "labels": LABELS,
        "batching": {"enabled": True, "reason": "the graph keeps its rows apart"},
        "preprocess": [
            {"transform": "decode_image", "mode": "L"},
            {"transform": "resize", "width": 8, "height": 8},
            {"transform": "scale", "factor": 0.0627},
            {"transform": "reshape", "shape": [64]},
        ],
        "postprocess": [{"transform": "label_lookup", "input": "probabilities", "output": "class"}],
    },
}


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """An ASGI application on a real socket; yields its URL."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        loop="none",
        http=ProxyProtocol,
        ws=BoundedWebSocket,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()  # serve() would take over signal handlers, and ticks ten times a second
    assert server.started
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.shutdown()


@dataclass
class Seen:
    """A request as a neighbour got it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Neighbour:
    """An HTTP server that records what it is asked and answers as the test wants."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    handlers: dict[str, Handler] = field(default_factory=dict)

    def on(self, path: str, handler: Handler) -> None:
        self.handlers[path] = handler

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        handler = self.handlers.get(request.path) or self.handlers.get("*")
        streaming = getattr(handler, "streaming", False)
        body = b"" if streaming else await request.read()
        self.seen.append(
            Seen(request.method, request.raw_path, list(request.headers.items()), body)
        )
        if handler is None:
            return web.Response(status=404, text="nobody here")
        return await handler(request)


@asynccontextmanager
async def neighbour() -> AsyncIterator[Neighbour]:
    """A running Neighbour."""
    found = Neighbour()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", found._serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = site._server
    assert isinstance(server, asyncio.Server)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


async def _answer_metadata(_: web.Request) -> web.Response:
    return web.json_response(METADATA)


async def _answer_ready(_: web.Request) -> web.Response:
    return web.Response()


async def _answer_infer(_: web.Request) -> web.Response:
    row = [0.05] * 10
    row[7] = 0.55
    return web.json_response(
        {
            "model_name": "digits",
            "model_version": "1",
            "outputs": [
                {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": row}
            ],
        },
        headers={
            "X-Slipway-Model": "digits",
            "X-Slipway-Model-Version": "1",
            "X-Slipway-Variant": "inference",
            "X-Slipway-Pod": "inference-0",
            "X-Slipway-Queue-Ms": "0.1",
            "X-Slipway-Compute-Ms": "0.2",
        },
    )


@pytest.fixture
async def model() -> AsyncIterator[Neighbour]:
    """A neighbour that speaks enough of the protocol; for faults that a real server never has."""
    async with neighbour() as found:
        found.on("/v2/models/digits", _answer_metadata)
        found.on("/v2/models/digits/ready", _answer_ready)
        found.on("/v2/models/digits/infer", _answer_infer)
        yield found


@pytest.fixture
async def upstream() -> AsyncIterator[Neighbour]:
    """A neighbour for `/api/`."""
    async with neighbour() as found:
        yield found


@dataclass
class Proxy:
    """A running proxy and a session to ask it with."""

    url: str
    session: aiohttp.ClientSession
    health: Health
    settings: ProxySettings
    app: Any

    async def metric(self, line: str) -> float:
        """The value of one line of `/metrics`, 0 where it is absent."""
        async with self.session.get(f"{self.url}/metrics") as answer:
            for found in (await answer.text()).splitlines():
                if found.startswith(line + " "):
                    return float(found.rsplit(" ", 1)[1])
        return 0.0


@asynccontextmanager
async def proxy_with(*, spans: Spans | None = None, **given: Any) -> AsyncIterator[Proxy]:
    """A proxy with these settings, on a real socket."""
    # What waits for Redis waits 50 ms in a cluster; a busy machine takes longer to answer.
    usual = {"access_log": "off", "redis_timeout_seconds": 10.0}
    settings = ProxySettings(**(usual | given))
    health = Health()
    app = create_app(settings, health, spans)
    async with listening(app) as url, aiohttp.ClientSession() as session:
        yield Proxy(url, session, health, settings, app)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis, for this session only."""
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    with running_redis(port, folder):
        yield f"redis://127.0.0.1:{port}/0"


class running_redis:  # noqa: N801 - reads as the context manager it is
    """A redis-server process; ``stop`` and ``start`` it to see what others make of that."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self.program = require("redis-server")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                self.program,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
                *("--appendonly", "no", "--dir", str(self.folder), "--loglevel", "warning"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise
                time.sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> running_redis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@asynccontextmanager
async def worker_with(*, spans: Spans | None = None, **given: Any) -> AsyncIterator[str]:
    """A running job worker; yields the URL of its probes and metrics."""
    settings = ProxySettings(**({"access_log": "off", "drain_seconds": 2.0} | given))
    async with listening(create_worker(settings, spans=spans)) as url:
        yield url


async def eventually(
    check: Callable[[], Awaitable[Any]], *, seconds: float = SECONDS, every: float = 0.02
) -> Any:
    """The first true answer of ``check``; AssertionError where there is none in time."""
    until = time.monotonic() + seconds
    while True:
        found = await check()
        if found:
            return found
        assert time.monotonic() < until, f"not within {seconds} s; last answer: {found!r}"
        await asyncio.sleep(every)
