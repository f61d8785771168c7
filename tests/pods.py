"""A service's process as a pod runs it: its log, its probes, its exit and what it leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.lifecycle import termination
from kit.lifecycle.termination import NOT_READY, Reason
from tests.waits import SECONDS, until

# An address of this machine where nobody listens: ports below 1024 are not handed out.
NOBODY = "127.0.0.1:1"


@dataclass(frozen=True)
class Ended:
    """What is left of a process that ended by itself."""

    code: int
    log: str
    message: Reason
    """The container's termination message."""


@dataclass(frozen=True)
class Pod:
    """A process that serves."""

    process: subprocess.Popen[bytes]
    log_file: Path
    port: int

    def readiness(self) -> tuple[int, dict[str, str]]:
        """Status and body of `/readyz`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request("GET", "/readyz", headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def not_ready_lines(self) -> list[dict[str, Any]]:
        """The log's lines that say why it is not ready."""
        return [entry for entry in entries(self.log_file) if entry.get("message") == NOT_READY]


def entries(log: Path) -> list[dict[str, Any]]:
    """The complete JSON lines of a log."""
    found = []
    for line in log.read_text(errors="replace").splitlines(keepends=True):
        if line.startswith("{") and line.endswith("\n"):
            found.append(json.loads(line))
    return found


def run_to_its_end(folder: Path, *words: str, **settings: str) -> Ended:
    """Run a service's program, which is to end by itself."""
    file = folder / "termination-log"
    file.write_text("")
    done = subprocess.run(
        _command(words), env=_environment(file, settings), timeout=SECONDS, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, termination.read(file.read_text()))


@contextmanager
def pod(folder: Path, *words: str, **settings: str) -> Iterator[Pod]:
    """A service's program while it listens, on a port that it chose itself."""
    log, file = folder / "log", folder / "termination-log"
    file.write_text("")
    with log.open("wb") as out:
        process = subprocess.Popen(
            _command(words), env=_environment(file, settings), stdout=out, stderr=subprocess.STDOUT
        )

    def port() -> int:
        assert process.poll() is None, log.read_text()
        said = [entry for entry in entries(log) if entry.get("message") == "listening"]
        return int(said[0]["port"]) if said else 0

    try:
        yield Pod(process, log, until(port, "the line that says where it listens"))
    finally:
        process.kill()
        process.wait()


def _command(words: tuple[str, ...]) -> list[str]:
    program = Path(sys.executable).with_name(words[0])
    return [str(program), *words[1:]]


def _environment(file: Path, settings: dict[str, str]) -> dict[str, str]:
    ours = ("PROXY_", "INFERENCE_", "UNZIP_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    ports = {f"{prefix}PORT": "0" for prefix in ours} | {"INFERENCE_GRPC_PORT": "0"}
    hosts = {f"{prefix}HOST": "127.0.0.1" for prefix in ours}
    return kept | ports | hosts | {termination.VARIABLE: str(file)} | settings
