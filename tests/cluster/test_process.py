"""Daemons are started once, found again, restarted on change, and stopped for good."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import process
from cluster.errors import ClusterError
from cluster.process import Daemon, Supervisor, stop_processes

LISTENS = """
import pathlib, socket, sys, time
path = pathlib.Path(sys.argv[1])
path.unlink(missing_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(str(path))
server.listen(64)
time.sleep(60)
"""
IGNORES_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LISTENS


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor(tmp_path / "run", tmp_path / "logs")


def daemon(tmp_path: Path, code: str = LISTENS, *, inputs: tuple[Path, ...] = ()) -> Daemon:
    path = str(tmp_path / "socket")

    def ready() -> str:
        with socket.socket(socket.AF_UNIX) as client:
            return "" if client.connect_ex(path) == 0 else "nothing listens"

    return Daemon(
        "part",
        (sys.executable, "-c", code, path),
        ready=ready,
        inputs=inputs,
        ready_timeout=90,
    )


def test_a_running_daemon_is_kept_and_a_killed_one_is_started_again(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    part = daemon(tmp_path)
    assert supervisor.ensure(part) == "started"
    first = supervisor.process_id("part")
    assert first is not None
    assert supervisor.ensure(part) == "kept"
    assert supervisor.process_id("part") == first
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert supervisor.ensure(part) == "started"
    assert supervisor.process_id("part") != first
    supervisor.stop("part")
    assert not supervisor.alive("part")
    assert supervisor.names() == []


def test_a_changed_input_restarts(supervisor: Supervisor, tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text("one")
    part = daemon(tmp_path, inputs=(settings,))
    supervisor.ensure(part)
    first = supervisor.process_id("part")
    settings.write_text("two")
    assert supervisor.ensure(part) == "restarted"
    assert supervisor.process_id("part") != first
    supervisor.stop("part")


def test_another_working_folder_restarts_nothing(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: a program named without its path was looked for in the folder of the clone."""
    program = tmp_path / "bin" / "some-daemon"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(program.parent))
    part = daemon(tmp_path)
    named = replace(part, argv=("some-daemon", *part.argv[1:]))
    supervisor.ensure(named)
    monkeypatch.chdir(tmp_path)
    assert supervisor.ensure(named) == "kept"
    supervisor.stop("part")


def test_one_that_ignores_sigterm_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.ensure(daemon(tmp_path, IGNORES_TERM))
    pid = supervisor.process_id("part")
    assert pid is not None
    supervisor.stop("part", grace=0.2)
    assert not Path(f"/proc/{pid}").exists()


def test_what_was_stopped_is_waited_for() -> None:
    """Found: one that ended between two looks at it was called gone, and stayed a zombie."""
    for _ in range(50):
        pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
        stop_processes([pid], grace=0)
        assert not Path(f"/proc/{pid}").exists()


def test_one_that_ends_at_once_is_told_with_its_exit_code(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the first look at the process took its exit code with it."""
    spawn = process._spawn

    def spawn_and_end(part: Daemon, log: Path) -> int:
        pid = spawn(part, log)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    monkeypatch.setattr(process, "_spawn", spawn_and_end)
    with pytest.raises(ClusterError, match="ended with exit code 7"):
        supervisor.ensure(daemon(tmp_path, "import sys; sys.exit(7)"))


def test_one_that_ends_early_is_told_with_its_log(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as told:
        supervisor.ensure(daemon(tmp_path, "import sys; print('no such disk'); sys.exit(7)"))
    assert "ended with exit code 7" in told.value.cause
    assert "no such disk" in told.value.report()


def test_another_process_that_answers_does_not_pass_for_ours(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """Found when a killed `git daemon` left its child at the port."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))
        other.listen()
        with pytest.raises(ClusterError, match="another process answers where part is to listen"):
            supervisor.ensure(daemon(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_record_half_written_counts_as_none(
    supervisor: Supervisor, tmp_path: Path, content: str
) -> None:
    records = tmp_path / "run" / "processes"
    records.mkdir(parents=True)
    (records / "part.json").write_text(content)
    assert not supervisor.alive("part")
    assert supervisor.ensure(daemon(tmp_path)) == "started"
    supervisor.stop("part")


def test_a_reused_process_id_is_not_ours(supervisor: Supervisor, tmp_path: Path) -> None:
    records = tmp_path / "run" / "processes"
    records.mkdir(parents=True)
    # This very process, with a start time that is not its own.
    (records / "part.json").write_text(
        json.dumps({"pid": os.getpid(), "start": "1", "fingerprint": ""})
    )
    assert not supervisor.alive("part")
    supervisor.stop("part")


def test_stopping_nothing_is_no_error() -> None:
    stop_processes([], grace=0.1)
