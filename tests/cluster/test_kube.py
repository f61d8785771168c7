"""What counts as rolled out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.kube import Kubectl


def answering(folder: Path, document: dict[str, Any]) -> Kubectl:
    """A kubectl that answers everything with one document."""
    (folder / "answer.json").write_text(json.dumps(document))
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\ncat {folder}/answer.json\n")
    program.chmod(0o755)
    return Kubectl(str(program), None)


def deployment(**status: int) -> dict[str, Any]:
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 2, **status},
    }


def test_a_ready_pod_of_before_is_no_rollout(tmp_path: Path) -> None:
    """`cluster addon` said that KEDA was up while its new operator was still starting."""
    kubectl = answering(tmp_path, deployment(replicas=2, readyReplicas=1, updatedReplicas=1))
    with pytest.raises(ClusterError, match="deployment/x in namespace n was not ready"):
        kubectl.wait_for_rollout("deployment/x", "n", timeout=0)


def test_what_is_ready_updated_and_alone_is_rolled_out(tmp_path: Path) -> None:
    kubectl = answering(tmp_path, deployment(replicas=1, readyReplicas=1, updatedReplicas=1))
    kubectl.wait_for_rollout("deployment/x", "n", timeout=0)


def test_what_the_controller_has_not_seen_is_no_rollout(tmp_path: Path) -> None:
    document = deployment(replicas=1, readyReplicas=1, updatedReplicas=1)
    document["metadata"]["generation"] = 3
    with pytest.raises(ClusterError, match="was not ready"):
        answering(tmp_path, document).wait_for_rollout("deployment/x", "n", timeout=0)
