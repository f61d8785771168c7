"""What slow and silent connections cost a server of ours, and how long it keeps them.

    python -m bench.proxy.slowloris                     2,000 connections to the proxy
    python -m bench.proxy.slowloris --connections 500

Half of the connections send half a head, and a byte of it now and then; the others say nothing.
A caller asks `/v1/about` on a connection of its own each time meanwhile. Only 127.0.0.1 is asked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

HALF = b"GET /v1/about HTTP/1.1\r\nHost: a\r\nX-Slow: "
ASK = b"GET /v1/about HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def main() -> None:
    """Run it and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--head-seconds", type=float, default=20.0)
    parser.add_argument("--max-connections", type=int, default=4096)
    parser.add_argument("--longest", type=float, default=60.0, help="when to stop waiting")
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PROXY_HOST": "127.0.0.1",
        "PROXY_PORT": str(port),
        "PROXY_ACCESS_LOG": "off",
        "PROXY_HEAD_SECONDS": str(given.head_seconds),
        "PROXY_MAX_CONNECTIONS": str(given.max_connections),
    }
    program = Path(sys.executable).with_name("proxy")
    with subprocess.Popen([program, "serve"], env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            while _latency(port) is None:
                time.sleep(0.05)
            print(json.dumps(measure(port, server.pid, given), indent=2))
        finally:
            server.terminate()


def measure(port: int, pid: int, given: argparse.Namespace) -> dict[str, object]:
    """Latencies before and meanwhile, memory, and when the connections were closed."""
    before = [_latency(port) for _ in range(50)]
    memory = _memory(pid)
    waiting = selectors.DefaultSelector()
    began = time.monotonic()
    for number in range(given.connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        if number % 2:
            connection.sendall(HALF)
        waiting.register(connection, selectors.EVENT_READ, number)
    opened = time.monotonic() - began
    most = _memory(pid)
    closed: list[float] = []
    meanwhile: list[float | None] = []
    fed = began
    while waiting.get_map() and time.monotonic() - began < given.longest:
        for key, _ in waiting.select(timeout=0.05):
            if _ended(key.fileobj):  # type: ignore[arg-type]
                waiting.unregister(key.fileobj)
                closed.append(time.monotonic() - began)
        meanwhile.append(_latency(port))
        if time.monotonic() - fed > 5:
            fed = time.monotonic()
            for key in list(waiting.get_map().values()):
                if key.data % 2:
                    _feed(key.fileobj)  # type: ignore[arg-type]
        most = max(most, _memory(pid))
    answered = [each for each in meanwhile if each is not None]
    return {
        "connections": given.connections,
        "opened_seconds": round(opened, 2),
        "closed": len(closed),
        "first_closed_seconds": round(min(closed, default=-1.0), 1),
        "last_closed_seconds": round(max(closed, default=-1.0), 1),
        "requests_meanwhile": len(meanwhile),
        "not_answered": len(meanwhile) - len(answered),
        "median_ms_before": _milliseconds(statistics.median(each or 0.0 for each in before)),
        "median_ms_meanwhile": _milliseconds(statistics.median(answered)),
        "p99_ms_meanwhile": _milliseconds(sorted(answered)[int(len(answered) * 0.99)]),
        "memory_mib_before": memory,
        "memory_mib_most": most,
    }


def _ended(connection: socket.socket) -> bool:
    try:
        ended = connection.recv(65536) == b""
    except OSError:
        ended = True
    if ended:
        connection.close()
    return ended


def _feed(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed by the server; the selector will say so
        connection.sendall(b"x")


def _latency(port: int) -> float | None:
    """Seconds until a whole answer on a new connection; None without one."""
    began = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(ASK)
            answer = b""
            while data := connection.recv(65536):
                answer += data
    except OSError:
        return None
    return time.monotonic() - began if answer.startswith(b"HTTP/1.1 200 ") else None


def _memory(pid: int) -> int:
    """Resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) // 1024


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


if __name__ == "__main__":
    main()
