"""What may not be is refused by the real admission, the real Envoys and the real API server."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from cluster import layout, status
from cluster.errors import ClusterError
from cluster.process import Supervisor
from flow.site import Site
from tests.e2e.conftest import wait_until

ENVIRONMENTS = ("dev", "stage", "prod")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_pod_security_refuses_a_pod_that_may_become_root(site: Site, environment: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": environment},
        "spec": {"containers": [{"name": "root", "image": "root"}]},
    }
    with pytest.raises(ClusterError, match='violates PodSecurity "restricted'):
        site.kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_admission_refuses_what_values_must_not_bring(site: Site, environment: str) -> None:
    """The policies of argocd/platform/admission.yaml hold on the one machine, for its registry."""
    deployed = site.kubectl.get("deployment", "proxy", "-n", environment)
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "tried", "namespace": environment},
        "spec": {key: deployed["spec"][key] for key in ("selector", "template")},
    }
    [own] = [
        one for one in made["spec"]["template"]["spec"]["containers"] if one["name"] == "proxy"
    ]
    image = own["image"]
    dry = ("create", "--dry-run=server", "-f", "-")
    site.kubectl.run(*dry, stdin=json.dumps(made))
    for wrong, said in (
        (image.split("@")[0] + ":1", "has no digest"),
        ("docker.io/evil/proxy@" + image.split("@")[1], "is from no allowed registry"),
    ):
        own["image"] = wrong
        with pytest.raises(ClusterError, match=said):
            site.kubectl.run(*dry, stdin=json.dumps(made))
    own["image"] = image
    made["spec"]["template"]["metadata"]["annotations"]["sidecar.istio.io/proxyImage"] = image
    with pytest.raises(ClusterError, match="changes what the mesh does to the pod"):
        site.kubectl.run(*dry, stdin=json.dumps(made))
    other = "prod" if environment == "dev" else "dev"
    gateway = site.kubectl.get("gateways.networking.istio.io", "public", "-n", environment)
    gateway["metadata"] = {"name": "tried", "namespace": environment}
    gateway["spec"]["servers"][0]["hosts"].append(f"{other}.slipway.localhost")
    with pytest.raises(ClusterError, match=f"is not of the namespace {environment}"):
        site.kubectl.run(*dry, stdin=json.dumps(gateway))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_pod_of_an_environment_has_its_sidecar(site: Site, environment: str) -> None:
    pods = site.kubectl.items("pods", "-n", environment)
    assert pods
    for pod in pods:
        names = [container["name"] for container in pod["spec"].get("initContainers", [])]
        names += [container["name"] for container in pod["spec"]["containers"]]
        assert "istio-proxy" in names, pod["metadata"]["name"]


def test_plaintext_from_outside_the_mesh_is_refused(site: Site) -> None:
    """A pod without a sidecar gets no answer from inference, which mTLS STRICT forbids."""
    inference = site.kubectl.get("service", "inference", "-n", "dev")["spec"]["clusterIP"]
    code = (
        "import http.client\n"
        f"c = http.client.HTTPConnection('{inference}', 8080, timeout=5)\n"
        "try:\n c.request('GET', '/v2'); print('answered', c.getresponse().status)\n"
        "except Exception as e: print('refused', type(e).__name__)\n"
    )
    image = site.kubectl.get("deployment", "proxy", "-n", "dev")["spec"]["template"]["spec"][
        "containers"
    ][0]["image"]
    name = "plaintext-caller"
    site.kubectl.run("delete", "pod", name, "-n", "slipway-system", "--ignore-not-found")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "slipway-system"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "caller",
                    "image": image,
                    "command": ["/opt/slipway/bin/python", "-c", code],
                }
            ],
        },
    }
    site.kubectl.run("create", "-f", "-", stdin=yaml.safe_dump(pod))
    try:

        def ended() -> str:
            found = site.kubectl.get("pod", name, "-n", "slipway-system")
            if found["status"]["phase"] not in ("Succeeded", "Failed"):
                return ""
            return site.kubectl.run("logs", name, "-n", "slipway-system")

        said = wait_until(ended, "the caller ends", timeout=60)
    finally:
        site.kubectl.run("delete", "pod", name, "-n", "slipway-system", "--wait=false")
    assert re.match(r"refused (ConnectionResetError|RemoteDisconnected|BadStatusLine)", said), said


def test_the_memory_of_cluster_and_environments_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = layout.default_layout()
    parts = status.daemon_states(where, Supervisor(where.run, where.logs))
    total = sum(part.memory for part in parts) + status.pod_memory()
    assert all(part.state == "running" for part in parts)
    with capsys.disabled():
        print(f"\nthe cluster with all three environments takes {total / 1024:.2f} GiB")
