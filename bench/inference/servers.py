"""The servers that are measured: how each is installed, started and asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.inference.models import Case

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True)
class Server:
    """``command`` makes the argument list from interpreter, models' folder and port."""

    name: str
    command: Callable[[Path, Path, int], list[str]]
    path: Callable[[Case], str]
    body: Callable[[Case], bytes] = Case.row_body
    environment: dict[str, str] = field(default_factory=dict)


def _script(name: str) -> Callable[[Path, Path, int], list[str]]:
    return lambda python, models, port: [
        str(python), str(PEERS / f"{name}_server.py"), str(models), str(port),
    ]  # fmt: skip


def _v2(case: Case) -> str:
    return f"/v2/models/{case.model}/infer"


def _nested(case: Case) -> bytes:
    return json.dumps({"inputs": case.nested()}).encode()


OURS_ENVIRONMENT = {
    "INFERENCE_THREADS": "1",
    "INFERENCE_HOST": "127.0.0.1",
    "INFERENCE_GRPC_ENABLED": "false",
    "INFERENCE_LOG_LEVEL": "warning",
    "INFERENCE_STOP_DELAY_SECONDS": "0",
    "INFERENCE_MAX_QUEUE_SIZE": "16384",
}

SERVERS = {
    server.name: server
    for server in (
        Server("bare-asgi", _script("bare"), _v2),
        Server(
            "slipway",
            lambda python, _models, _port: [str(python.with_name("inference")), "serve"],
            _v2,
            environment=OURS_ENVIRONMENT,
        ),
        Server("mlserver", _script("mlserver"), _v2),
        Server("litserve", _script("litserve"), lambda _: "/predict"),
        Server("bentoml", _script("bentoml"), lambda _: "/predict"),
        Server("ray-serve", _script("ray"), lambda _: "/predict"),
        Server("kserve", _script("kserve"), _v2),
        Server("mlflow", _script("mlflow"), lambda _: "/invocations", _nested),
    )
}


def environments() -> Path:
    """Where the peers are installed, each in an environment of its own."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slipway" / "bench"


def interpreter(server: Server, own: Path) -> Path | None:
    """The server's Python, installed if need be; None where its packages do not install."""
    pins = PEERS / f"{server.name}.txt"
    if not pins.exists():
        return own
    folder = environments() / server.name
    python = folder / "bin" / "python"
    mark = folder / ".ok"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text().strip() == wanted:
        return python
    commands = (
        ["uv", "venv", "--quiet", "--clear", "--python", "3.11", str(folder)],
        ["uv", "pip", "sync", "--quiet", "--python", str(python), str(pins)],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{server.name}: not installed: {done.stderr.strip().splitlines()[-1:]}")
            return None
    mark.write_text(wanted)
    return python


class Process:
    """A running server, pinned to one CPU, with everything it has started."""

    def __init__(
        self, server: Server, python: Path, models: Path, *, port: int, cpu: int, log: Path
    ) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            **server.environment,
            "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "INFERENCE_PORT": str(port),
            "INFERENCE_MODEL_REPOSITORY": str(models),
        }
        self.started = time.monotonic()
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                ["taskset", "-c", str(cpu), *server.command(python, models, port)],
                env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                cwd=log.parent,
            )  # fmt: skip

    def wait_ready(self, case: Case, *, seconds: float = 90) -> float:
        """Seconds from start to the first prediction."""
        while time.monotonic() - self.started < seconds:
            if self.popen.poll() is not None:
                break
            request = urllib.request.Request(
                self.url + self.server.path(case),
                data=self.server.body(case),
                headers={"content-type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    answer.read()
                return time.monotonic() - self.started
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"{self.server.name} did not get ready")

    def tree(self) -> list[int]:
        """Its processes: those of its session and all their descendants."""
        parents: dict[int, int] = {}
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            if int(fields[3]) == self.popen.pid:
                found.add(int(entry.name))
        grown = True
        while grown:
            new = {pid for pid, parent in parents.items() if parent in found} - found
            grown = bool(new)
            found |= new
        return sorted(found)

    def send(self, number: signal.Signals) -> None:
        """A signal to each of its processes."""
        for pid in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def cpu_seconds(self) -> float:
        """User and system time of the tree so far."""
        total = 0
        for pid in self.tree():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """Proportional set size of the tree: shared pages count once."""
        total = 0
        for pid in self.tree():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += next(int(row.split()[1]) for row in rollup.splitlines() if row[:4] == "Pss:")
        return total / 1024

    def stop(self) -> None:
        """End exactly the processes that this one started."""
        pids = self.tree()
        self.popen.terminate()
        self.send(signal.SIGCONT)  # it may be frozen
        try:
            self.popen.wait(15)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for pid in pids:
            if pid != self.popen.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
