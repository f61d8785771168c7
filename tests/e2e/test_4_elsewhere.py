"""CLUSTER=current, tried on the one Kubernetes there is: what is installed stays as it is."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx

from flow import site as sites
from flow.site import Site
from tests.e2e.conftest import wait_until
from tests.ports import free_port
from trainer import digits


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


def test_a_service_runs_here_beside_the_clusters_others(tmp_path: Path) -> None:
    """What `make dev APP=proxy` runs: its model server, Redis and S3 are the cluster's."""
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            ["flow", "dev", "proxy", f"--port={port}"],
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:

        def answer() -> httpx.Response | None:
            assert running.poll() is None, log.read_text()
            _, held_out = digits.split()
            try:
                found = httpx.post(
                    f"http://127.0.0.1:{port}/v1/predict/digits",
                    headers={"Content-Type": "image/png"},
                    content=digits.png(held_out.pixels[0]),
                    timeout=10,
                )
            except httpx.HTTPError:
                return None
            return found if found.status_code == 200 else None

        predicted = wait_until(answer, f"a prediction through the service here:\n{log}")
        assert predicted.json()["model"] == "digits"
        assert "dev/inference:8080 is reached at 127.0.0.1:" in log.read_text()
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)
