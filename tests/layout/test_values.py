"""Values against what they are meant for: settings of the services, ports, callers, hosts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.main import get_command

from kit.settings import ServiceSettings, environment_variables
from tests.charts.rendering import (
    ALL_RELEASES,
    ENVIRONMENTS,
    Release,
    manifests,
    releases,
    render,
)
from tests.members import commands, settings_of

# The AWS SDKs' own variables.
AWS = {"AWS_ENDPOINT_URL_S3", "AWS_REGION"}
INSTANCE = "app.kubernetes.io/instance"
SERVICES = [release for release in ALL_RELEASES if release.chart == "service"]
# Releases whose image has settings of our kind; a foreign one is told what it likes.
WITH_SETTINGS = [release for release in SERVICES if settings_of(release.service)]


def _settings(release: Release) -> type[ServiceSettings]:
    found = settings_of(release.service)
    assert found is not None
    return found


def _objects(release: Release, kind: str) -> dict[str, dict[str, Any]]:
    found = [one for one in manifests(render(release)) if one["kind"] == kind]
    return {one["metadata"]["name"]: one for one in found}


def _environment(release: Release) -> dict[str, str]:
    data: dict[str, str] = _objects(release, "ConfigMap")[release.name]["data"]
    return data


def _pod(release: Release) -> dict[str, Any]:
    for manifest in manifests(render(release)):
        spec = manifest.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            pod: dict[str, Any] = template["spec"]
            return pod
    raise AssertionError(f"{release} has no pods")


def test_services_have_their_settings_where_they_are_looked_for() -> None:
    """Settings in another module were neither checked nor documented, and nothing said so."""
    printing = [
        name
        for name, app in commands().items()
        if "settings" in getattr(get_command(app), "commands", {})
    ]
    assert {"proxy", "inference", "unzip"} <= set(printing)
    assert [name for name in printing if settings_of(name) is None] == []


@pytest.mark.parametrize("release", WITH_SETTINGS, ids=str)
def test_environment_variables_are_settings(release: Release) -> None:
    known = {row["name"] for row in environment_variables(_settings(release))}
    for name in _environment(release).keys() - AWS:
        assert name.partition("__")[0] in known, (
            f"{release}: {name} is no setting of the service; see docs/reference/settings-*.md"
        )


@pytest.mark.parametrize("release", WITH_SETTINGS, ids=str)
def test_settings_accept_their_values(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _environment(release).items():
        monkeypatch.setenv(name, value)
    settings = _settings(release)()
    # Unready, keep serving, drain, exit, and then the sidecar: all within the grace period.
    needed = settings.stop_delay_seconds + settings.drain_seconds + 5
    assert _pod(release)["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("release", WITH_SETTINGS, ids=str)
def test_ports_and_probes_agree(release: Release) -> None:
    [container] = _pod(release)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if ports:
        settings = _settings(release)()
        assert ports["http"] == settings.port
        if grpc := ports.get("grpc"):
            assert grpc == getattr(settings, "grpc_port", None)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe in container:
            assert container[probe]["httpGet"]["port"] in ports
            assert container[probe]["httpGet"]["path"] in ("/livez", "/readyz")


@pytest.mark.parametrize("release", WITH_SETTINGS, ids=str)
def test_arguments_are_commands(release: Release) -> None:
    [container] = _pod(release)["containers"]
    command = get_command(commands()[release.service])
    assert container["args"][0] in command.commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_backends_are_services_of_the_environment(environment: str) -> None:
    by_name = {release.name: release for release in releases(environment)}
    for name in ("proxy", "worker"):
        for backend in json.loads(_environment(by_name[name])["PROXY_BACKENDS"]).values():
            host, port = re.fullmatch(r"http://([^:/]+):(\d+)", backend["url"]).groups()  # type: ignore[union-attr]
            service = _objects(by_name[host], "Service")[host]
            assert int(port) in {one["port"] for one in service["spec"]["ports"]}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments_share_no_state(environment: str) -> None:
    """Redis database and archives: two environments would take each other's work."""
    mine = {
        release.name: _environment(release)
        for release in releases(environment)
        if release in SERVICES
    }
    assert mine["proxy"]["PROXY_REDIS_URL"] == mine["worker"]["PROXY_REDIS_URL"]
    for other in ENVIRONMENTS:
        if other != environment:
            theirs = {one.name: _environment(one) for one in releases(other) if one in SERVICES}
            assert mine["proxy"]["PROXY_REDIS_URL"] != theirs["proxy"]["PROXY_REDIS_URL"]
            assert mine["unzip"]["UNZIP_BUCKET"] != theirs["unzip"]["UNZIP_BUCKET"]


@pytest.mark.parametrize("release", SERVICES, ids=str)
def test_who_may_call_may_also_connect(release: Release) -> None:
    """Istio's list of callers and the NetworkPolicy's are the same, and all are releases."""
    names = {one.name for one in releases(release.environment)} | {"ingressgateway"}
    called = set()
    for policy in _objects(release, "AuthorizationPolicy").values():
        assert policy["spec"]["selector"]["matchLabels"] == {INSTANCE: release.name}
        for rule in policy["spec"]["rules"]:
            [principal] = rule["from"][0]["source"]["principals"]
            assert "*" not in principal
            called.add(principal.rpartition("/")[2])
    connected = set()
    for policy in _objects(release, "NetworkPolicy").values():
        assert policy["spec"]["podSelector"]["matchLabels"] == {INSTANCE: release.name}
        for rule in policy["spec"].get("ingress", []):
            for source in rule["from"]:
                labels = source["podSelector"]["matchLabels"]
                connected.add(labels.get(INSTANCE) or labels["istio"])
    assert called == connected
    assert called <= names


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everybody_named_is_a_release(environment: str) -> None:
    by_name = {release.name: release for release in releases(environment)}
    for service in _objects(by_name["routing"], "DestinationRule"):
        assert _objects(by_name[service], "Service"), f"{service} has no Service to route to"
    assert _objects(by_name["environment"], "NetworkPolicy").keys() == {"default-deny", "everyone"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_hosts_carry_the_environment(environment: str) -> None:
    by_name = {release.name: release for release in releases(environment)}
    hosts = _objects(by_name["routing"], "VirtualService")["public"]["spec"]["hosts"]
    assert hosts == [f"{environment}.slipway.localhost"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_quota_has_room_for_a_rollout(environment: str) -> None:
    """Every pod, and one more of each Deployment while it rolls, sidecars included."""
    by_name = {release.name: release for release in releases(environment)}
    hard = _objects(by_name["environment"], "ResourceQuota")["environment"]["spec"]["hard"]
    millicores = 0
    mebibytes = 0
    pods = 0
    for release in SERVICES:
        if release.environment != environment:
            continue
        deployment = _objects(release, "Deployment").get(release.name, {})
        replicas = deployment.get("spec", {}).get("replicas", 1) + 1
        requests = _pod(release)["containers"][0]["resources"]["requests"]
        pods += replicas
        millicores += replicas * (_millicores(requests["cpu"]) + 10)
        mebibytes += replicas * (_mebibytes(requests["memory"]) + 40)
    assert pods <= int(hard["pods"])
    assert millicores <= _millicores(hard["requests.cpu"])
    assert mebibytes <= _mebibytes(hard["requests.memory"])


def _millicores(text: str) -> int:
    return int(text.removesuffix("m")) if text.endswith("m") else int(text) * 1000


def _mebibytes(text: str) -> int:
    return int(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]
