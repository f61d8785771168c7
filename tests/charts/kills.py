"""Ends a pod's processes at once, as a crash or a lost node does.

The node is this machine: on the one-machine cluster, and on no other.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.charts.scratch import eventually, kubectl


def kill_pod(namespace: str, pod: str) -> None:
    """Kill all processes of a pod, its sandbox too, and wait until it has started again."""
    running = _running(_status(namespace, pod))
    _kill(namespace, pod, "", running)


def kill_sidecar(namespace: str, pod: str) -> None:
    """Kill a pod's Envoy and its agent, and wait until they have started again."""
    running = _running(_status(namespace, pod))
    _kill(namespace, pod, "/usr/local/bin/", {"istio-proxy": running["istio-proxy"]})


def _kill(namespace: str, pod: str, program: str, killed: dict[str, str]) -> None:
    path = "jsonpath={.metadata.uid}"
    processes = _processes(kubectl("get", "pod", pod, "-n", namespace, "-o", path), program)
    assert processes, f"no process of {pod} on this machine: the node must be this machine"
    for process in processes:
        os.kill(process, signal.SIGKILL)

    def again() -> bool:
        status = _status(namespace, pod)
        now = _running(status)
        conditions = {one["type"]: one["status"] for one in status["conditions"]}
        fresh = all(now.get(name, old) != old for name, old in killed.items())
        return fresh and conditions["Ready"] == "True"

    eventually(again, bool, 120)


def _processes(uid: str, program: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"pod{uid}/" in (folder / "cgroup").read_text(encoding="utf-8")
            if mine and (folder / "cmdline").read_bytes().startswith(program.encode()):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _status(namespace: str, pod: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("get", "pod", pod, "-n", namespace, "-o", "json"))
    return dict(found["status"])


def _running(status: dict[str, Any]) -> dict[str, str]:
    """The identity of each container that runs and is ready, by its name."""
    containers = [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
    return {
        one["name"]: one["containerID"]
        for one in containers
        if one["ready"] and "running" in one["state"]
    }
