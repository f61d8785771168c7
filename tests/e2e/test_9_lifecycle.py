"""The cluster comes back after any of its parts was killed, and goes without a trace."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from cluster import layout, network, status, teardown
from cluster.process import Supervisor
from flow.site import Site
from tests.e2e.conftest import predict, wait_until

WHERE = layout.default_layout()
PARTS = [daemon.name for daemon in status.daemons(WHERE)]


def cluster(*arguments: str) -> str:
    done = subprocess.run(["cluster", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dev_predicts() -> bool:
    """Found: until its pods are started anew, connections to the gateway are refused."""
    with contextlib.suppress(httpx.TransportError):
        return predict("dev").status_code == 200
    return False


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor(WHERE.run, WHERE.logs)


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back(part: str, supervisor: Supervisor) -> None:
    pid = supervisor.process_id(part)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not supervisor.alive(part), f"{part} is gone")
    cluster("up")
    assert supervisor.process_id(part) not in (None, pid)


def test_everything_killed_at_once_comes_back_and_serves(supervisor: Supervisor) -> None:
    """As after the end of a CI job: every process is gone, all else is still there."""
    parts = {pid for part in PARTS if (pid := supervisor.process_id(part)) is not None}
    assert len(parts) == len(PARTS)
    everything = parts | teardown.shims(WHERE.containerd_socket) | teardown.cgroup_processes()
    for pid in sorted(everything, key=lambda pid: pid not in parts):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    mountinfo = Path("/proc/self/mountinfo").read_text()
    assert teardown.mounts_under(WHERE.state, mountinfo), "what a kill leaves is still mounted"
    cluster("up")
    wait_until(dev_predicts, "dev predicts", timeout=180)


def traces() -> dict[str, list[str]]:
    """What a cluster would leave in the machine, by kind."""

    def lines(*command: str) -> list[str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Packet counters differ from one look to the next.
        return sorted(re.sub(r"\[\d+:\d+\]", "", line) for line in done.stdout.splitlines())

    ours = (str(WHERE.run), str(WHERE.state), str(WHERE.bin.parent / "builds"))
    processes = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if any(path in command for path in ours):
            processes.append(command)
    mountinfo = Path("/proc/self/mountinfo").read_text()
    return {
        "processes": processes,
        "mounts": [
            point
            for folder in (WHERE.run, WHERE.state)
            for point in teardown.mounts_under(folder, mountinfo)
        ],
        "network namespaces": lines("ip", "netns", "list"),
        "links": [line.split(":")[1] for line in lines("ip", "-o", "link")],
        "rules": [
            line
            for program in ("iptables-save", "ip6tables-save")
            for line in lines(program)
            if not line.startswith("#")
        ],
        "cgroups": [str(path) for path in teardown.cgroup_roots()],
        "sysctls": [Path("/proc/sys", name).read_text() for name in network.SYSCTLS],
    }


def test_down_leaves_nothing_behind_and_up_comes_back(site: Site) -> None:
    cluster("down")
    after_first = traces()
    assert after_first["processes"] == []
    assert after_first["mounts"] == []
    assert after_first["cgroups"] == []
    assert layout.BRIDGE not in " ".join(after_first["links"])
    assert "veth" not in " ".join(after_first["links"])
    assert [
        rule for rule in after_first["rules"] if re.search("KUBE-|CNI-|198\\.1[89]", rule)
    ] == []
    assert not WHERE.run.exists()

    cluster("up")
    wait_until(dev_predicts, "dev predicts", timeout=180)
    cluster("down")
    assert traces() == after_first

    cluster("up")
    wait_until(dev_predicts, "dev predicts", timeout=180)
    assert site.kubectl.items("pods", "-n", "dev")
