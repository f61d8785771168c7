"""A running model server for the tests: the real one, on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from inference.fast_infer import server_protocol
from inference.models.served import ServedModel
from inference.server.state import ServerState
from inference.service import create_service
from inference.settings import InferenceSettings
from kit.lifecycle.health import Health
from tests.waits import SECONDS


@dataclass(slots=True)
class Running:
    """A server and a client for it."""

    state: ServerState
    health: Health
    client: httpx.AsyncClient
    url: str
    port: int
    grpc_port: int
    server: uvicorn.Server

    def connections(self) -> set[Any]:
        """The HTTP connections that are open."""
        return self.server.server_state.connections

    async def infer(self, model: str, *inputs: dict[str, Any], **request: Any) -> httpx.Response:
        """POST …/infer with these inputs."""
        document = {"inputs": list(inputs), **request}
        return await self.client.post(f"/v2/models/{model}/infer", json=document)


Serve = Callable[..., AbstractAsyncContextManager[Running]]


def tensor(name: str, datatype: str, shape: list[int], data: Any, **more: Any) -> dict[str, Any]:
    """An input in the protocol's JSON."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


class Gate:
    """Holds work in threads until it is opened; on the loop's own thread it lets it pass."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.loop_thread = threading.current_thread()
        self.opened = threading.Event()

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work behind the gate."""

        def held(*arguments: Any, **named: Any) -> Any:
            self.threads.append(threading.current_thread())
            if threading.current_thread() is not self.loop_thread:
                assert self.opened.wait(SECONDS)
            return work(*arguments, **named)

        return held


def hold_model(served: ServedModel) -> Gate:
    """A gate before every run of this model, none of which is on the loop's thread."""
    gate = Gate()
    served.batcher.short_runs.limit = 0.0
    setattr(served.model, "run", gate.around(served.model.run))  # noqa: B010 - a method
    return gate


async def until(condition: Callable[[], bool], *, seconds: float = SECONDS) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)


async def probes_answer(running: Running) -> None:
    """Every probe there is says that all is well."""
    for path in ("/livez", "/readyz", "/metrics", "/v2/health/ready", "/ping"):
        assert (await running.client.get(path)).status_code == 200


async def until_seen(condition: Callable[[], Awaitable[bool]], *, seconds: float = SECONDS) -> None:
    """Wait until a request shows that the condition holds."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(repository: str, **settings: Any) -> AsyncIterator[Running]:
    """The server over a repository, ready or as ready as it gets."""
    wait_ready = settings.pop("wait_ready", True)
    health = Health()
    configured = InferenceSettings(
        model_repository=repository,
        host="127.0.0.1",
        grpc_port=0,
        **({"threads": 1, "pod_name": "pod-1", "release_name": "inference"} | settings),
    )
    service = create_service(configured, health)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            service.app, http=server_protocol(service.state), log_config=None, access_log=False,
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: None)
            task = asyncio.create_task(server._serve([listener]))
            url = f"http://127.0.0.1:{port}"
            try:
                await until(lambda: server.started or task.done())
                if task.done():
                    task.result()
                # Reading authorities, whom nobody asks here, takes longer than most tests.
                async with httpx.AsyncClient(
                    base_url=url, timeout=SECONDS, verify=False, trust_env=False
                ) as client:
                    if wait_ready:
                        await until(lambda: health.readiness()[0] == 200)
                    grpc_port = service.grpc.port if service.grpc else 0
                    yield Running(service.state, health, client, url, port, grpc_port, server)
            finally:
                server.should_exit = True
                await task


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty model repository."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(repository: Path) -> Serve:
    """Run the server over ``repository``: ``async with serve(max_queue_size=8) as running``."""
    return lambda **settings: serving(settings.pop("at", str(repository)), **settings)
