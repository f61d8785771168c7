"""The one-machine manifest repo's hook, with a real push, kubectl and API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.manifest_repo import install_hook
from cluster.wake import PATHS
from release.cluster.client import REFRESH
from tests.programs import require
from tests.release.conftest import World
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.release.verification.test_verification import application
from tests.waits import until


@pytest.fixture
def kube(api: Kubernetes) -> Kubernetes:
    api.empty()
    for release in ("proxy", "worker", "extra"):
        app = application(release, "")
        app["metadata"]["annotations"] = {PATHS: f".;/values/dev/{release}.*"}
        api.put(APPLICATIONS, app, subresource=False)
    return api


def asked(kube: Kubernetes) -> set[str]:
    found = kube.client.get(APPLICATIONS).json()["items"]
    return {a["metadata"]["name"] for a in found if REFRESH in a["metadata"]["annotations"]}


def test_a_push_has_argo_cd_look_at_what_it_is_about(kube: Kubernetes, world: World) -> None:
    kubectl = [require("kubectl"), f"--kubeconfig={kube.kubeconfig}", "--namespace=argocd"]
    install_hook(world.remote, kubectl)
    world.push({"values/dev/proxy.yaml": "replicas: 3\n", "values/dev/extra.yaml": "a: b\n"})
    # One call annotates them all, one after the other.
    until(lambda: asked(kube) >= {"dev-proxy", "dev-extra"}, "the hook's two requests")
    assert asked(kube) == {"dev-proxy", "dev-extra"}


def test_a_cluster_that_is_away_keeps_no_push_from_main(world: World, tmp_path: Path) -> None:
    install_hook(world.remote, [str(tmp_path / "no-kubectl")])
    before = world.head()
    world.push({"values/dev/proxy.yaml": "replicas: 3\n"})
    assert world.head() != before
