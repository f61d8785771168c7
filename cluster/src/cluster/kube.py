"""kubectl, as far as the add-ons need it."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Calls kubectl with one kubeconfig; an empty one means whatever kubectl finds."""

    program: str
    kubeconfig: Path | None

    def run(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Standard output of one call; ClusterError with standard error when it fails."""
        done = self._call(*arguments, stdin=stdin)
        if check and done.returncode != 0:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout

    def _call(self, *arguments: str, stdin: str) -> subprocess.CompletedProcess[str]:
        configured = [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig else []
        return subprocess.run(
            [self.program, *configured, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def get(self, *arguments: str) -> dict[str, Any]:
        """One object, or an empty dictionary where there is none."""
        text = self.run("get", *arguments, "--ignore-not-found", "-o", "json")
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        found: list[dict[str, Any]] = self.get(*arguments).get("items", [])
        return found

    def apply(self, manifests: str) -> None:
        """Server-side apply; what another manager changed of ours is undone."""
        self.run(
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=slipway-cluster",
            "-f",
            "-",
            stdin=manifests,
        )

    def all_exist(self, manifests: str) -> bool:
        """Whether the API server has every object of the manifests."""
        done = self._call("get", "-f", "-", "-o", "name", stdin=manifests)
        return done.returncode == 0

    def wait_for_heartbeat(self, node: str, since: datetime, timeout: float) -> None:
        """Wait until a node's lease was renewed after ``since``; its name stands for it."""
        deadline = time.monotonic() + timeout
        while True:
            lease = self.get("lease", node, "-n", "kube-node-lease")
            renewed = lease.get("spec", {}).get("renewTime", "")
            if renewed and datetime.fromisoformat(renewed) > since:
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"node {node} gave no sign of life in {timeout:.0f} s")
            time.sleep(0.1)

    def wait_for_rollout(self, workload: str, namespace: str, timeout: float) -> None:
        """Wait until a Deployment, DaemonSet or StatefulSet has rolled out.

        Raises ClusterError that names what its pods wait for.
        """
        deadline = time.monotonic() + timeout
        while not self._rolled_out(workload, namespace):
            if workload.startswith("statefulset/"):
                self._replace_stuck(workload, namespace)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{workload} in namespace {namespace} was not ready after {timeout:.0f} s: "
                    + (self._why_waiting(namespace) or "no pod says why"),
                    fix=f"kubectl -n {namespace} describe {workload}",
                )
            time.sleep(0.25)

    def _replace_stuck(self, workload: str, namespace: str) -> None:
        # A StatefulSet waits for ever for a broken pod of an older revision to get ready.
        # Source: Kubernetes, "StatefulSets", Forced rollback.
        found = self.get(workload, "-n", namespace)
        wanted = found.get("status", {}).get("updateRevision")
        for pod in self.items("pods", "-n", namespace):
            metadata = pod["metadata"]
            owners = [owner.get("uid") for owner in metadata.get("ownerReferences", [])]
            if not wanted or found["metadata"]["uid"] not in owners:
                continue
            statuses = pod["status"].get("containerStatuses", [])
            ready = bool(statuses) and all(status["ready"] for status in statuses)
            revision = metadata["labels"].get("controller-revision-hash")
            if not ready and revision != wanted and "deletionTimestamp" not in metadata:
                self.run("delete", "pod", metadata["name"], "-n", namespace, "--wait=false")

    def _rolled_out(self, workload: str, namespace: str) -> bool:
        kind = workload.partition("/")[0]
        found = self.get(workload, "-n", namespace)
        status, spec = found.get("status", {}), found.get("spec", {})
        if not found or status.get("observedGeneration", 0) < found["metadata"]["generation"]:
            return False
        if kind == "daemonset":
            wanted = status.get("desiredNumberScheduled", 0)
            return bool(
                status.get("numberReady", 0)
                == status.get("updatedNumberScheduled", 0)
                == wanted
                > 0
            )
        wanted = spec.get("replicas", 1)
        ready, all_pods = status.get("readyReplicas", 0), status.get("replicas", 0)
        # A pod of before is ready, too, while the one that replaces it starts.
        return bool(ready == status.get("updatedReplicas", 0) == all_pods == wanted)

    def _why_waiting(self, namespace: str) -> str:
        reasons = []
        for pod in self.items("pods", "-n", namespace):
            name = pod["metadata"]["name"]
            statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get(
                "containerStatuses", []
            )
            for container in statuses:
                waiting = container.get("state", {}).get("waiting")
                if waiting and waiting.get("reason") != "PodInitializing":
                    message = waiting.get("message", "")
                    reasons.append(
                        f"pod {name}, {container['name']}: {waiting['reason']} {message}"
                    )
        return "; ".join(reasons)
