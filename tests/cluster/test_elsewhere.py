"""What is told to kind, and what somebody's own cluster must be told with.

kind needs a Docker engine, so these tests read the commands and the configuration.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import elsewhere, layout
from cluster.errors import ClusterError
from cluster.layout import Layout
from flow.errors import FlowError
from flow.site import find


def test_kinds_configuration_maps_loopback_ports_to_the_services_node_ports() -> None:
    document = yaml.safe_load(elsewhere.kind_configuration())
    assert document["apiVersion"] == "kind.x-k8s.io/v1alpha4"
    mappings = document["nodes"][0]["extraPortMappings"]
    assert {mapping["listenAddress"] for mapping in mappings} == {"127.0.0.1"}
    here = elsewhere.site("kind")
    assert {mapping["hostPort"]: mapping["containerPort"] for mapping in mappings} == {
        layout.GATEWAY_PORT: here.gateway_node_port,
        layout.S3_PORT: here.s3_node_port,
    }
    assert "config_path" in document["containerdConfigPatches"][0]


def test_the_first_time_registry_and_cluster_are_made_in_this_order() -> None:
    commands = elsewhere.kind_up([], [])
    assert [" ".join(command.arguments[:3]) for command in commands] == [
        "docker run --detach",
        "kind create cluster",
        "docker network connect",
        "docker exec slipway-control-plane",
        "docker exec --interactive",
    ]
    assert commands[1].stdin == elsewhere.kind_configuration()
    assert commands[4].stdin == '[host."http://slipway-registry:5000"]\n'
    assert commands[4].arguments[-1].endswith(f"/certs.d/{layout.REGISTRY}/hosts.toml")


def test_what_is_there_is_not_made_again() -> None:
    commands = elsewhere.kind_up(["other", "slipway"], ["slipway-registry"])
    programs = [command.arguments[:2] for command in commands]
    assert ("docker", "run") not in programs
    assert ("kind", "create") not in programs


def test_down_takes_cluster_and_registry_away() -> None:
    assert [command.arguments for command in elsewhere.kind_down()] == [
        ("kind", "delete", "cluster", "--name=slipway"),
        ("docker", "rm", "--force", "slipway-registry"),
    ]


def test_a_program_that_is_missing_is_named_with_its_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "git").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="CLUSTER=kind needs docker") as told:
        elsewhere.check_programs("kind")
    assert "docs.docker.com" in told.value.fix
    elsewhere.check_programs("current")


def test_a_failing_command_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    elsewhere.run([elsewhere.Command(("false",), may_fail=True)], said.append)
    with pytest.raises(ClusterError, match="`false` failed"):
        elsewhere.run([elsewhere.Command(("false",))], said.append)
    assert said == ["$ false", "$ false"]


def test_the_images_elsewhere_are_pinned_and_cover_what_the_addons_name() -> None:
    assert all(":" in image.rpartition("/")[2] for image in elsewhere.OFFICIAL_IMAGES.values())
    manifests = Path(layout.__file__).parents[2] / "manifests"
    for name in ("metrics-server.yaml", "stores.yaml"):
        for word in (manifests / name).read_text().split("image: ${")[1:]:
            assert word.partition("}")[0] in elsewhere.OFFICIAL_IMAGES


def test_the_steps_elsewhere_never_start_a_kubernetes(tmp_path: Path) -> None:
    where = Layout(tmp_path, tmp_path)
    kubectl = elsewhere.Kubectl("kubectl", None)
    names = {step.name for step in elsewhere.steps(where, "current", kubectl, "helm", tmp_path)}
    assert names == {
        "namespaces",
        "metrics-server",
        "stores",
        "istio-base",
        "gateway-api",
        "istiod",
        "istio-cni",
        "gateway",
        "argocd",
    }


def test_ones_own_cluster_needs_a_registry_and_a_repo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
    with pytest.raises(FlowError, match="add-ons are not installed"):
        find("current", {})
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "s3-credentials.json").write_text("{}")
    with pytest.raises(FlowError, match="CLUSTER=current needs IMAGE_REGISTRY"):
        find("current", {})
    with pytest.raises(FlowError, match="CLUSTER=current needs MANIFEST_REPO"):
        find("current", {"IMAGE_REGISTRY": "registry.example/slipway"})
    found = find(
        "current", {"IMAGE_REGISTRY": "registry.example/slipway", "MANIFEST_REPO": "/srv/x.git"}
    )
    assert found.repo_url == "/srv/x.git"


def test_a_kind_of_cluster_that_is_unknown_is_refused() -> None:
    done = subprocess.run(
        ["cluster", "up"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CLUSTER": "minikube"},
    )
    assert done.returncode == 1
    assert "CLUSTER is 'minikube'" in done.stderr
    assert "machine, kind, current" in done.stderr
