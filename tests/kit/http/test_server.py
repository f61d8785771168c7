"""A pod stops in this order: unready, keep serving, drain, exit."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.ports import free_port
from tests.waits import SECONDS, until

PROGRAM = """
import asyncio, sys
from starlette.responses import PlainTextResponse
from kit.lifecycle.health import Health
from kit.http.probes import Probes
from kit.http.server import serve
from kit.settings import ServiceSettings

started, opened = asyncio.Event(), asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/held":
        started.set()
        await opened.wait()
    if scope["path"] == "/started":
        await started.wait()
    if scope["path"] == "/open":
        opened.set()
    await PlainTextResponse("done")(scope, receive, send)

health = Health()
settings = ServiceSettings(host="127.0.0.1", port=int(sys.argv[1]), stop_delay_seconds=5.0)
serve(Probes(app, health), settings, health)
"""


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)])

    def ready() -> bool:
        assert process.poll() is None
        try:
            return get(port, "/readyz") == 200
        except OSError:
            return False

    until(ready, "the server")
    yield process, port
    if process.poll() is None:
        process.kill()
    process.wait()


def test_after_sigterm_it_is_unready_serves_on_finishes_and_ends(
    server: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = server
    held = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    held.request("GET", "/held")
    assert get(port, "/started") == 200
    os.kill(process.pid, signal.SIGTERM)
    until(lambda: get(port, "/readyz") == 503, "the probe that says no")
    assert get(port, "/open") == 200, "routes change after the signal: it serves on meanwhile"
    assert held.getresponse().read() == b"done", "what was under way is finished"
    held.close()
    assert process.wait(timeout=SECONDS) == 0


def test_a_second_signal_ends_it_at_once(server: tuple[subprocess.Popen[bytes], int]) -> None:
    process, port = server
    os.kill(process.pid, signal.SIGTERM)
    until(lambda: get(port, "/readyz") == 503, "the probe that says no")
    os.kill(process.pid, signal.SIGTERM)
    process.wait(timeout=SECONDS)


def test_a_second_server_on_a_port_says_so_and_ends() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(port)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


GIVES_UP = """
import sys
from kit.lifecycle.health import Health
from kit.http.probes import Probes
from kit.http.server import serve
from kit.settings import ServiceSettings

health = Health()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if sys.argv[2] == "raises":
            raise RuntimeError("no way to start")
        await send({"type": "lifespan.startup.complete"})
        health.give_up("models", "there is no model", "fetch one", code=7)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

settings = ServiceSettings(host="127.0.0.1", port=int(sys.argv[1]))
serve(Probes(app, health), settings, health)
"""


@pytest.mark.parametrize(
    ("way", "code", "said"),
    [("gives up", 7, "there is no model"), ("raises", 3, "no way to start")],
)
def test_a_service_that_cannot_work_ends_with_a_code(way: str, code: int, said: str) -> None:
    """Found: an application whose start failed ended with 0, or served on without it."""
    done = subprocess.run(
        [sys.executable, "-c", GIVES_UP, "0", way],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
