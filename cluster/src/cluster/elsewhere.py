"""Somebody else's Kubernetes: kind, or whatever kubectl points at.

The add-ons are the same as on the one-machine cluster, with the images their makers publish.
What is installed there already is left as it is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster import addons, build, layout, manifest_repo, parts
from cluster.errors import ClusterError
from cluster.graph import Step
from cluster.kube import Kubectl
from cluster.layout import Layout
from cluster.process import Daemon, Supervisor

Kind = Literal["machine", "kind", "current"]
KINDS: tuple[Kind, ...] = ("machine", "kind", "current")
NAME = "slipway"
REGISTRY_CONTAINER = "slipway-registry"
# kind's node ports start at 30000; the machine's ports are mapped to these.
GATEWAY_NODE_PORT = 30080
S3_NODE_PORT = 30070

OFFICIAL_IMAGES = {
    "metrics-server": "registry.k8s.io/metrics-server/metrics-server:v0.9.0",
    "s3": "versity/versitygw:v1.8.0",
    "redis": "redis:8.2.3-alpine",
    "istiod": "istio/pilot:1.31.1",
    "istio-proxy": "istio/proxyv2:1.31.1",
    "istio-cni": "istio/install-cni:1.31.1",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command, what it reads, and whether its failure means that its work was done before."""

    arguments: tuple[str, ...]
    stdin: str = ""
    may_fail: bool = False


def kind_configuration() -> str:
    """kind's configuration: ports on loopback, and a registry on loopback as the nodes' mirror.

    Source: kind's documentation, "Local Registry" and "Extra Port Mappings".
    """
    document: dict[str, Any] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": NAME,
        "networking": {
            "podSubnet": layout.POD_NETWORK,
            "serviceSubnet": layout.SERVICE_NETWORK,
        },
        "containerdConfigPatches": [
            '[plugins."io.containerd.grpc.v1.cri".registry]\n'
            '  config_path = "/etc/containerd/certs.d"\n'
        ],
        "nodes": [
            {
                "role": "control-plane",
                "extraPortMappings": [
                    {
                        "containerPort": node_port,
                        "hostPort": port,
                        "listenAddress": "127.0.0.1",
                        "protocol": "TCP",
                    }
                    for node_port, port in (
                        (GATEWAY_NODE_PORT, layout.GATEWAY_PORT),
                        (S3_NODE_PORT, layout.S3_PORT),
                    )
                ],
            }
        ],
    }
    return yaml.safe_dump(document, sort_keys=False)


def kind_up(clusters: Sequence[str], containers: Sequence[str]) -> list[Command]:
    """The commands that make the kind cluster and its registry, given what is there."""
    commands = []
    if REGISTRY_CONTAINER not in containers:
        commands.append(
            Command(
                (
                    *("docker", "run", "--detach", "--restart=always"),
                    f"--publish=127.0.0.1:{layout.REGISTRY_PORT}:5000",
                    *(f"--name={REGISTRY_CONTAINER}", "registry:2"),
                )
            )
        )
    if NAME not in clusters:
        commands.append(
            Command(
                ("kind", "create", "cluster", "--config=-", "--wait=120s"), kind_configuration()
            )
        )
    mirror = f"/etc/containerd/certs.d/{layout.REGISTRY}"
    commands += [
        Command(("docker", "network", "connect", "kind", REGISTRY_CONTAINER), may_fail=True),
        Command(("docker", "exec", f"{NAME}-control-plane", "mkdir", "-p", mirror)),
        Command(
            (
                *("docker", "exec", "--interactive", f"{NAME}-control-plane"),
                *("cp", "/dev/stdin", f"{mirror}/hosts.toml"),
            ),
            f'[host."http://{REGISTRY_CONTAINER}:5000"]\n',
        ),
    ]
    return commands


def kind_down() -> list[Command]:
    """The commands that take the kind cluster and its registry away."""
    return [
        Command(("kind", "delete", "cluster", f"--name={NAME}")),
        Command(("docker", "rm", "--force", REGISTRY_CONTAINER), may_fail=True),
    ]


def run(commands: Sequence[Command], report: Callable[[str], None]) -> None:
    """Run commands in order; ClusterError names the first that fails."""
    for command in commands:
        report("$ " + " ".join(command.arguments))
        done = subprocess.run(
            command.arguments, input=command.stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 and not command.may_fail:
            raise ClusterError(f"`{' '.join(command.arguments)}` failed: {done.stderr.strip()}")


def output(*arguments: str) -> list[str]:
    """The lines a command prints; none where it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def check_programs(kind: Kind) -> None:
    """Raise ClusterError for programs that are missing, each with where it comes from."""
    needed = {"git": "your system's packages"}
    if kind == "kind":
        needed |= {
            "docker": "https://docs.docker.com/engine/install/",
            "kind": "https://kind.sigs.k8s.io/",
        }
    for name, source in needed.items():
        if shutil.which(name) is None:
            raise ClusterError(f"CLUSTER={kind} needs {name}, which is not on PATH", fix=source)


def kind_gateway_address() -> str:
    """The address at which kind's nodes reach this machine: their network's gateway."""
    done = subprocess.run(
        ["docker", "network", "inspect", "kind", "--format", "{{json .IPAM.Config}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    for entry in json.loads(done.stdout or "[]"):
        if "." in entry.get("Gateway", ""):
            return str(entry["Gateway"])
    raise ClusterError("docker has no network named kind", fix="run `CLUSTER=kind make up` again")


def site(kind: Kind) -> addons.Site:
    """Somebody else's Kubernetes as the add-ons see it."""
    return addons.Site(
        images=OFFICIAL_IMAGES,
        data_folder=None,
        gateway_service_type="NodePort" if kind == "kind" else "LoadBalancer",
        gateway_node_port=GATEWAY_NODE_PORT,
        # A port that is free on a cluster of one's own choosing is the cluster's to choose.
        s3_node_port=S3_NODE_PORT if kind == "kind" else 0,
        plain_envoy=False,
    )


def steps(where: Layout, kind: Kind, kubectl: Kubectl, helm: str, shared: Path) -> list[Step]:
    """The add-ons, each left alone where it is there and was not put there from here."""
    here, record = site(kind), f"{addons.RECORD}-{kind}"

    def addon(name: str, needs: tuple[str, ...], make: Callable[[], addons.Addon]) -> Step:
        def work() -> str:
            made = make()
            applied = kubectl.get("configmap", record, "-n", "slipway-system").get("data", {})
            if name not in applied:
                what, namespace = made.evidence
                if kubectl.get(what, "-n", namespace):
                    return "left as it is"
            return addons.ensure(kubectl, made, record=record)

        return Step(name, needs, work)

    credentials = where.state / "s3-credentials.json"
    return [
        Step("namespaces", (), lambda: addons.ensure_namespaces(kubectl, record=record)),
        addon("metrics-server", ("namespaces",), lambda: addons.metrics_server(here)),
        addon(
            "stores",
            ("namespaces",),
            lambda: addons.stores(here, addons.s3_credentials(credentials)),
        ),
        addon("istio-base", ("namespaces",), lambda: addons.istio_base(helm, shared)),
        addon("gateway-api", ("namespaces",), lambda: addons.gateway_api(shared / "gateway-api")),
        addon("istiod", ("istio-base", "gateway-api"), lambda: addons.istiod(helm, shared, here)),
        addon("istio-cni", ("istio-base",), lambda: addons.istio_cni(helm, shared, here)),
        addon("gateway", ("istiod", "istio-cni"), lambda: addons.gateway(helm, shared, here)),
        addon(
            "argocd",
            ("namespaces",),
            lambda: addons.argocd(shared / "argocd-install.yaml", here),
        ),
    ]


def forwards(kubectl: Kubectl) -> list[Daemon]:
    """Port forwards that put a remote cluster's gateway and S3 where the flow looks for them."""

    def forward(name: str, namespace: str, service: str, port: int, target: int) -> Daemon:
        configured = (f"--kubeconfig={kubectl.kubeconfig}",) if kubectl.kubeconfig else ()
        return Daemon(
            name,
            (
                *(kubectl.program, *configured, "port-forward", f"--namespace={namespace}"),
                *("--address=127.0.0.1", f"service/{service}", f"{port}:{target}"),
            ),
            ready=lambda: parts.connects("127.0.0.1", port),
        )

    return [
        forward("gateway-forward", "istio-ingress", "ingressgateway", layout.GATEWAY_PORT, 80),
        forward("s3-forward", "slipway-system", "s3", layout.S3_PORT, layout.S3_PORT),
    ]


def ensure_repo(where: Layout, supervisor: Supervisor, address: str) -> str:
    """The bare manifest repo, served at an address that a kind cluster reaches."""
    manifest_repo.ensure(where)
    supervisor.ensure(parts.git_daemon(where, address))
    return manifest_repo.url(address)


def programs(where: Layout, report: Callable[[str], None]) -> tuple[str, str]:
    """kubectl and Helm: those on PATH, else built."""
    found = {name: shutil.which(name) for name in ("kubectl", "helm")}
    missing = [p for p in build.PLATFORM if p.name in found and found[p.name] is None]
    if missing:
        build.ensure(where, missing, report)
    return (
        found["kubectl"] or where.program("kubectl"),
        found["helm"] or where.program("helm"),
    )
