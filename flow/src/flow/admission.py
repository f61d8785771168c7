"""What argocd/platform/admission.yaml allows on this cluster: its registry, its mesh's sidecar."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ClusterError
from cluster.kube import Kubectl
from flow.errors import FlowError

POLICIES = "argocd/platform/admission.yaml"


def apply(kubectl: Kubectl, clone: Path, registry: str) -> None:
    """Apply the policies of a checkout, and what they allow here.

    Raises FlowError on a cluster whose API server has no ValidatingAdmissionPolicies.
    """
    injector = kubectl.get("configmap", "istio-sidecar-injector", "-n", "istio-system")
    sidecars = sidecar_images(injector)
    # First what is allowed: the policies admit nothing before.
    kubectl.apply(yaml.safe_dump(parameters(registry, sidecars)))
    try:
        kubectl.apply((clone / POLICIES).read_text(encoding="utf-8"))
    except ClusterError as error:
        if "no matches for kind" not in str(error):
            raise
        raise FlowError(
            "This cluster's API server has no ValidatingAdmissionPolicy "
            "(admissionregistration.k8s.io/v1), which Kubernetes has from 1.30 on: upgrade the "
            "cluster (docs/support.md)."
        ) from error


def parameters(registry: str, sidecars: list[str]) -> dict[str, Any]:
    """The ConfigMap that the policies read."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "slipway-admission", "namespace": "kube-system"},
        "data": {
            "registries": f"{registry.rstrip('/')}/",
            "sidecarImages": ",".join(sidecars),
        },
    }


def sidecar_images(injector: dict[str, Any]) -> list[str]:
    """Prefixes of the sidecar's image, as the mesh's injector has it; none without a mesh."""
    values = json.loads(injector.get("data", {}).get("values") or "{}")
    shared = values.get("global", {})
    image = shared.get("proxy", {}).get("image", "")
    if not image:
        return []
    name = image if "/" in image else f"{shared.get('hub', '')}/{image}"
    repository = re.sub(r"(:[^:/@]*)?(@.*)?$", "", name)  # without a tag and a digest
    return [f"{repository}:", f"{repository}@"]
