"""A pod stops in this order: unready, keep serving, drain, exit."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

PROGRAM = """
import asyncio, sys
from starlette.responses import PlainTextResponse
from kit.health import Health
from kit.probes import Probes
from kit.server import serve
from kit.settings import ServiceSettings

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    await PlainTextResponse("done")(scope, receive, send)

health = Health()
settings = ServiceSettings(host="127.0.0.1", port=int(sys.argv[1]), stop_delay_seconds=1.0)
serve(Probes(app, health), settings, health)
"""


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)])
    deadline = time.monotonic() + 30
    while True:
        try:
            assert get(port, "/readyz") == 200
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    yield process, port
    if process.poll() is None:
        process.kill()
    process.wait()


def test_after_sigterm_it_is_unready_serves_on_finishes_and_ends(
    server: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = server
    slow = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    slow.request("GET", "/slow")
    os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while get(port, "/readyz") != 503:
        assert time.monotonic() < deadline
    assert get(port, "/") == 200, "routes change after the signal: it serves on meanwhile"
    assert slow.getresponse().read() == b"done", "what was under way is finished"
    assert process.wait(timeout=20) == 0


def test_a_second_signal_ends_it_at_once(server: tuple[subprocess.Popen[bytes], int]) -> None:
    process, port = server
    os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while get(port, "/readyz") != 503:
        assert time.monotonic() < deadline
    os.kill(process.pid, signal.SIGTERM)
    process.wait(timeout=20)


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
