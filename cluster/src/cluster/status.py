"""What runs, what does not, and how much memory it takes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from cluster import parts, teardown
from cluster.layout import Layout
from cluster.process import Daemon, Supervisor

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A daemon of the cluster; ``state`` is running, unready or stopped; memory in MiB."""

    name: str
    state: str
    process_id: int | None
    memory: float
    reason: str


def daemons(where: Layout) -> list[Daemon]:
    """Every program of the cluster that runs outside pods."""
    return [
        parts.registry(where),
        parts.etcd(where),
        parts.kube_apiserver(where),
        parts.kube_controller_manager(where),
        parts.kube_scheduler(where),
        parts.containerd(where),
        parts.kubelet(where),
        parts.kube_proxy(where),
        parts.git_daemon(where),
    ]


def daemon_states(where: Layout, supervisor: Supervisor) -> list[PartStatus]:
    """The state of each daemon."""
    found = []
    for daemon in daemons(where):
        pid = supervisor.process_id(daemon.name)
        if pid is None:
            found.append(PartStatus(daemon.name, "stopped", None, 0.0, ""))
            continue
        reason = daemon.ready()
        state = "unready" if reason else "running"
        found.append(PartStatus(daemon.name, state, pid, _resident(pid) / MIB, reason))
    return found


def pod_memory() -> float:
    """Memory of all pods, less what the kernel could drop immediately, in MiB."""
    for root in teardown.cgroup_roots():
        for total_name, cache_name in (
            ("memory.usage_in_bytes", "total_inactive_file"),
            ("memory.current", "inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):
                total = int((root / total_name).read_text())
                values = dict(
                    line.split() for line in (root / "memory.stat").read_text().splitlines()
                )
                return (total - int(values.get(cache_name, 0))) / MIB
    return 0.0


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
