"""Programs run in the background: started once, found again, stopped for good."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program of the cluster: how it is started and how one sees that it serves.

    ``inputs`` are files whose change calls for a restart. ``ready`` returns an empty string
    when the program serves, and what is missing otherwise.
    """

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Path, ...] = ()
    ready_timeout: float = 60.0


class Supervisor:
    """Starts daemons and remembers them in ``run`` by process id and start time."""

    def __init__(self, run: Path, logs: Path) -> None:
        self._run = run / "processes"
        self._logs = logs

    def log(self, name: str) -> Path:
        """The log of a daemon."""
        return self._logs / f"{name}.log"

    def ensure(self, daemon: Daemon) -> str:
        """Start ``daemon`` unless it runs as wanted; return ``kept``, ``started``, ``restarted``.

        Raises ClusterError with the log when it ends early or does not get ready in time.
        """
        fingerprint = _fingerprint(daemon)
        recorded = self._read(daemon.name)
        word = "started"
        if recorded is not None and _alive(recorded):
            if recorded["fingerprint"] == fingerprint and not daemon.ready():
                return "kept"
            self.stop(daemon.name)
            word = "restarted"
        if not daemon.ready():
            raise ClusterError(
                f"another process answers where {daemon.name} is to listen",
                fix="find it with `ss -ltnp` and end it",
            )
        self._start(daemon, fingerprint)
        return word

    def alive(self, name: str) -> bool:
        """Whether the daemon that was started under this name still runs."""
        recorded = self._read(name)
        return recorded is not None and _alive(recorded)

    def names(self) -> list[str]:
        """Daemons that were started and not stopped."""
        return sorted(path.stem for path in self._run.glob("*.json"))

    def process_id(self, name: str) -> int | None:
        """The process id of a running daemon."""
        recorded = self._read(name)
        return int(recorded["pid"]) if recorded is not None and _alive(recorded) else None

    def stop(self, name: str, *, grace: float = 15.0) -> None:
        """Stop a daemon: SIGTERM, then SIGKILL after ``grace`` seconds."""
        recorded = self._read(name)
        if recorded is not None:
            stop_processes([int(recorded["pid"])] if _alive(recorded) else [], grace=grace)
        (self._run / f"{name}.json").unlink(missing_ok=True)

    def _start(self, daemon: Daemon, fingerprint: str) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self.log(daemon.name)
        pid = _spawn(daemon, log)
        record = {"pid": pid, "start": _start_time(pid), "fingerprint": fingerprint}
        (self._run / f"{daemon.name}.json").write_text(json.dumps(record))
        deadline = time.monotonic() + daemon.ready_timeout
        while missing := daemon.ready():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                raise ClusterError(
                    f"{daemon.name} ended with exit code {code} while starting", log=log
                )
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{daemon.name} was not ready after {daemon.ready_timeout:.0f} s: {missing}",
                    log=log,
                )
            time.sleep(0.1)

    def _read(self, name: str) -> dict[str, str] | None:
        # A record half written when the machine died is as good as none.
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((self._run / f"{name}.json").read_text())
            if isinstance(record, dict) and {"pid", "start", "fingerprint"} <= record.keys():
                return record
        return None


def _spawn(daemon: Daemon, log: Path) -> int:
    # Not subprocess.Popen: its object would warn of a child that outlives it, as ours are to.
    # The new session keeps the terminal's Ctrl-C away from it.
    return os.posix_spawnp(
        daemon.argv[0],
        daemon.argv,
        {**os.environ, **daemon.environment},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def stop_processes(pids: Iterable[int], *, grace: float) -> None:
    """SIGTERM to each, SIGKILL to those left after ``grace`` seconds; wait until all are gone."""
    alive = {pid: start for pid in pids if (start := _start_time(pid)) is not None}
    all_of_them = alive
    _signal(alive, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (alive := _still(alive)) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(alive, signal.SIGKILL)
    while alive := _still(alive):
        time.sleep(0.05)
    _reap(all_of_them)


def _still(alive: dict[int, str]) -> dict[int, str]:
    return {pid: start for pid, start in alive.items() if _start_time(pid) == start}


def _reap(pids: Iterable[int]) -> None:
    # A child of ours that ended stays a zombie until it is waited for.
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _fingerprint(daemon: Daemon) -> str:
    digest = hashlib.sha256(json.dumps([daemon.argv, dict(daemon.environment)]).encode())
    # Through links, so that a program built anew counts as another one.
    program = shutil.which(daemon.argv[0])
    digest.update(str(Path(program).resolve() if program else "").encode())
    for path in daemon.inputs:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _alive(record: Mapping[str, str]) -> bool:
    return _start_time(int(record["pid"])) == record["start"]


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None when it is gone or a zombie.

    Source: proc(5), /proc/PID/stat, fields 3 and 22. A reused process id has another start.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
