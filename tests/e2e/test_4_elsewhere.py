"""CLUSTER=current, tried on the one Kubernetes there is: what is installed stays as it is."""

from __future__ import annotations

import os
import subprocess

from flow import site as sites
from flow.site import Site


def workloads(site: Site) -> dict[str, str]:
    """Every workload outside the environments with its generation."""
    found = {}
    for namespace in ("argocd", "istio-system", "istio-ingress", "slipway-system", "kube-system"):
        for item in site.kubectl.items("deployments,daemonsets,statefulsets", "-n", namespace):
            metadata = item["metadata"]
            found[f"{namespace}/{item['kind']}/{metadata['name']}"] = str(metadata["generation"])
    return found


def test_addons_that_somebody_installed_are_left_as_they_are(site: Site) -> None:
    """Found: a record of the machine's own add-ons was taken for the other cluster's."""
    before = workloads(site)
    done = subprocess.run(
        ["cluster", "up"],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "CLUSTER": "current",
            "KUBECONFIG": str(site.kubectl.kubeconfig),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the add-ons are up on slipway" in done.stdout
    assert workloads(site) == before


def test_the_stages_read_registry_and_repo_from_the_environment(site: Site) -> None:
    found = sites.find(
        "current",
        {"IMAGE_REGISTRY": site.registry, "MANIFEST_REPO": site.manifest_repo},
    )
    assert found.registry == site.registry
    assert {bucket["Name"] for bucket in found.s3().list_buckets()["Buckets"]} >= {"models"}
