"""The servers of the benchmark: how each is started, on the same core, to the same upstream."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY = "sk-a-long-random-key-of-the-benchmark-0123456789"
PATH = "/v2/models/digits/infer"
SERVER_CORE, OTHER_CORE = "0", "1"
ANSWER = json.dumps(
    {
        "model_name": "digits",
        "model_version": "1",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": [0.1] * 10}
        ],
    }
)
METADATA = json.dumps(
    {
        "name": "digits",
        "versions": ["1"],
        "platform": "onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
    }
)


@dataclass
class Server:
    """A running server: where it listens, and the processes whose CPU and memory are its cost."""

    name: str
    url: str
    process: subprocess.Popen[bytes] | None

    def pids(self) -> list[int]:
        """The process and its children."""
        if self.process is None:
            return []
        found, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            children = Path(f"/proc/{pid}/task/{pid}/children")
            with contextlib.suppress(OSError):
                left += [int(child) for child in children.read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """Resident memory now."""
        pages = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_only(wanted: Server | None, servers: Iterable[Server]) -> None:
    """Freeze every server but one: some are never quite idle, and they share a core."""
    for server in servers:
        if server.process is not None:
            moving = signal.SIGCONT if server is wanted else signal.SIGSTOP
            os.killpg(server.process.pid, moving)


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def nginx_config(folder: Path, port: int, location: str, more: str = "") -> Path:
    """A configuration of one worker that writes nothing outside its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;"
        "events { worker_connections 4096; } http { access_log off; keepalive_requests 1000000000;"
        "client_max_body_size 100m; client_body_buffer_size 1m;"
        f"client_body_temp_path {folder}/body; {temp} {more}"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; {location} }} }}"
    )
    return path


def envoy_config(folder: Path, port: int, upstream_port: int) -> Path:
    """A plain HTTP proxy: one listener, one cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        },
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [router],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ]
        },
    }

    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    hcm = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    document = {
        "static_resources": {
            "listeners": [{"address": address(port), "filter_chains": [{"filters": [hcm]}]}],
            "clusters": [
                {
                    "name": "upstream",
                    "load_assignment": {
                        "cluster_name": "upstream",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": address(upstream_port)}}]}
                        ],
                    },
                }
            ],
        }
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(document))
    return path


def wait_for(
    url: str, process: subprocess.Popen[bytes], path: str, probe: str, seconds: float = 180.0
) -> None:
    """Until the server answers rightly, or RuntimeError: errors are no figures to compare."""
    until = time.monotonic() + seconds
    said = "nothing"
    while True:
        try:
            body = probe.encode() if path == PATH else None
            request = urllib.request.Request(url + path, body, {"Authorization": f"Bearer {KEY}"})
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=5) as answer:
                answer.read()
            return
        except urllib.error.HTTPError as error:
            said = str(error.code)
            error.close()
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the server at {url} did not start; it answered {said}")
        time.sleep(0.1)


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Until somebody listens, or RuntimeError."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"nobody listens on port {port}")
        time.sleep(0.05)


@contextmanager
def started(
    name: str,
    port: int,
    words: list[str],
    *,
    core: str,
    log: Path,
    probe: str = "{}",
    **env: str,
) -> Iterator[Server]:
    """A server process on one core that answers ``probe``; ended at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", core, *words],
            env=os.environ | env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        if words[0] == "redis-server":
            wait_for_port(port, process)
        else:
            wait_for(url, process, "/livez" if name == "worker" else PATH, probe)
        yield Server(name, url, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            os.killpg(process.pid, signal.SIGCONT)  # it may be frozen
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ours_environment(port: int, upstream: str, redis_port: int, *, cache: bool) -> dict[str, str]:
    """Our proxy with everything on: key, scopes, rate limit, deadlines, metrics, access log."""
    backend: dict[str, object] = {"type": "http", "url": upstream}
    if cache:
        backend["cache"] = {"ttl_seconds": 3600, "max_bytes": 1048576}
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return {
        "PROXY_HOST": "127.0.0.1",
        "PROXY_PORT": str(port),
        "PROXY_STOP_DELAY_SECONDS": "0",
        "PROXY_BACKENDS": json.dumps({"digits": backend}),
        "PROXY_AUTH_REQUIRED": "true",
        "PROXY_API_KEYS": json.dumps({"bench": {"sha256": digest, "scopes": ["predict:digits"]}}),
        "PROXY_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "PROXY_RATE_LIMIT": json.dumps({"requests": 1_000_000_000, "window_seconds": 3600}),
    }
