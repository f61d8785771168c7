"""What is installed into a Kubernetes before Slipway's own services: the same everywhere."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from cluster import layout
from cluster.errors import ClusterError
from cluster.kube import Kubectl

MANIFESTS = Path(__file__).parents[2] / "manifests"
NAMESPACES = ("slipway-system", "istio-system", "istio-ingress", "argocd")
# Kept in one ConfigMap per kind of cluster, a hash per add-on: what was applied last.
RECORD = "cluster-addons"
# Its page and its sign-in are of no use without the web page, which Argo CD's Go module lacks.
ARGOCD_LEFT_OUT = re.compile(r"argocd-(dex-server|server)\b")


@dataclass(frozen=True, slots=True)
class Addon:
    """Manifests to apply and the workloads to wait for, as (kind/name, namespace).

    ``evidence`` is what shows that somebody else has installed the same.
    """

    name: str
    manifests: str
    workloads: tuple[tuple[str, str], ...]
    evidence: tuple[str, str]
    timeout: float = 180.0


@dataclass(frozen=True, slots=True)
class Site:
    """What differs between one Kubernetes and another, as far as add-ons care.

    ``images`` maps the cluster's own image names to references. ``data_folder`` is a folder of
    the node for S3 and Redis, None for volumes that live as long as their pods.
    """

    images: Mapping[str, str]
    data_folder: Path | None
    cni_bin: str = "/opt/cni/bin"
    cni_configuration: str = "/etc/cni/net.d"
    cni_namespaces: str = "/var/run/netns"
    gateway_service_type: str = "NodePort"
    gateway_node_port: int = layout.GATEWAY_PORT
    s3_node_port: int = layout.S3_PORT
    # Envoy from its wheel is not Istio's build: it lacks Istio's own filters.
    plain_envoy: bool = True


def ensure(kubectl: Kubectl, addon: Addon, *, record: str = RECORD) -> str:
    """Apply an add-on whose manifests changed or lost an object; wait until it runs."""
    digest = hashlib.sha256(addon.manifests.encode()).hexdigest()
    applied = kubectl.get("configmap", record, "-n", "slipway-system").get("data", {})
    word = "kept"
    if applied.get(addon.name) != digest or not kubectl.all_exist(addon.manifests):
        kubectl.apply(addon.manifests)
        kubectl.run(
            "patch",
            "configmap",
            record,
            "-n",
            "slipway-system",
            "--type=merge",
            "-p",
            json.dumps({"data": {addon.name: digest}}),
        )
        word = "applied"
    for workload, namespace in addon.workloads:
        kubectl.wait_for_rollout(workload, namespace, addon.timeout)
    return word


def ensure_namespaces(kubectl: Kubectl, *, record: str = RECORD) -> str:
    """Create the namespaces and the record of what was applied."""
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES
    ]
    kubectl.apply(yaml.safe_dump_all(documents))
    if not kubectl.get("configmap", record, "-n", "slipway-system"):
        kubectl.run("create", "configmap", record, "-n", "slipway-system")
    return "applied"


def s3_credentials(path: Path) -> dict[str, str]:
    """The S3 server's root credentials, made up once and kept readable for the owner alone."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(
            json.dumps(
                {
                    "AWS_ACCESS_KEY_ID": "slipway" + secrets.token_hex(4),
                    "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
                }
            )
        )
    found: dict[str, str] = json.loads(path.read_text())
    return found


def coredns(site: Site) -> Addon:
    """Cluster DNS."""
    text = _fill("coredns.yaml", site, dns_address=layout.DNS_SERVICE_ADDRESS)
    workload = ("deployment/coredns", "kube-system")
    return Addon("coredns", text, (workload,), workload)


def metrics_server(site: Site) -> Addon:
    """CPU and memory of pods."""
    # Its first scrape is a resolution away: nothing waits for it.
    evidence = ("deployment/metrics-server", "kube-system")
    return Addon("metrics-server", _fill("metrics-server.yaml", site), (), evidence)


def stores(site: Site, credentials: Mapping[str, str]) -> Addon:
    """S3 and Redis."""

    def volume(name: str) -> str:
        if site.data_folder is None:
            return "emptyDir: {}"
        return f"hostPath: {{path: {json.dumps(str(site.data_folder / name))}, type: Directory}}"

    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3-root", "namespace": "slipway-system"},
        "stringData": {
            "ROOT_ACCESS_KEY": credentials["AWS_ACCESS_KEY_ID"],
            "ROOT_SECRET_KEY": credentials["AWS_SECRET_ACCESS_KEY"],
        },
    }
    text = _fill(
        "stores.yaml",
        site,
        s3_node_port=f", nodePort: {site.s3_node_port}" if site.s3_node_port else "",
        data_volume_s3=volume("s3"),
        data_volume_redis=volume("redis"),
    )
    return Addon(
        "stores",
        yaml.safe_dump(secret) + "---\n" + text,
        (("deployment/s3", "slipway-system"), ("deployment/redis", "slipway-system")),
        ("deployment/s3", "slipway-system"),
    )


def istio_base(helm: str, charts: Path) -> Addon:
    """Istio's custom resource definitions."""
    manifests = _helm(helm, "istio-base", charts / "istio-base", "istio-system")
    evidence = ("customresourcedefinition/virtualservices.networking.istio.io", "istio-system")
    return Addon("istio-base", manifests, (), evidence)


def gateway_api(crds: Path) -> Addon:
    """The Gateway API's kinds, from the module that istiod is built with."""
    # The policy that comes with them forbids other channels: the cluster's owner decides that.
    files = sorted(crds.glob("gateway.networking.k8s.io_*.yaml"))
    texts = [path.read_text() for path in files if "_vap_" not in path.name]
    evidence = ("customresourcedefinition/httproutes.gateway.networking.k8s.io", "istio-system")
    return Addon("gateway-api", "\n---\n".join(texts), (), evidence)


def istiod(helm: str, charts: Path, site: Site) -> Addon:
    """Istio's control plane."""
    values: dict[str, Any] = {
        "global": {
            "proxy": {
                "image": site.images["istio-proxy"],
                "resources": {
                    "requests": {"cpu": "10m", "memory": "40Mi"},
                    "limits": {"cpu": "1", "memory": "256Mi"},
                },
            },
            # The init container that checks istio-cni's work.
            "proxy_init": {"image": site.images["istio-proxy"]},
            "defaultPodDisruptionBudget": {"enabled": False},
        },
        "pilot": {
            "image": site.images["istiod"],
            "autoscaleEnabled": False,
            "cni": {"enabled": True},
            "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
            # Services tell a mirrored request from a real one by its host.
            "env": {"DISABLE_SHADOW_HOST_SUFFIX": "false"},
        },
        "meshConfig": {
            "accessLogFile": "/dev/stdout",
            "accessLogEncoding": "JSON",
            # Retries are each route's own to ask for: Istio's default would double a write.
            "defaultHttpRetryPolicy": {"attempts": 0},
            "defaultConfig": {"terminationDrainDuration": "10s"},
        },
    }
    if site.plain_envoy:
        values["telemetry"] = {"enabled": False}
        values["pilot"]["env"] |= {
            "PILOT_ENABLE_METADATA_EXCHANGE": "false",
            "PILOT_DISABLE_MX_ALPN": "true",
            "PILOT_ENABLE_ALPN_FILTER": "false",
        }
    manifests = _helm(helm, "istiod", charts / "istiod", "istio-system", values)
    workload = ("deployment/istiod", "istio-system")
    return Addon("istiod", manifests, (workload,), workload)


def istio_cni(helm: str, charts: Path, site: Site) -> Addon:
    """Sets up the sidecars' redirection, so that pods need no rights to do it themselves."""
    values = {
        "image": site.images["istio-cni"],
        "cniBinDir": site.cni_bin,
        "cniConfDir": site.cni_configuration,
        "cniNetnsDir": site.cni_namespaces,
        # A pod that started before the agent did has no redirection: it is made again. Repairing
        # it in place needs a look into the machine's own network namespace.
        "repair": {"repairPods": False, "deletePods": True},
        "resources": {"requests": {"cpu": "10m", "memory": "50Mi"}},
    }
    manifests = _helm(helm, "istio-cni", charts / "istio-cni", "istio-system", values)
    workload = ("daemonset/istio-cni-node", "istio-system")
    return Addon("istio-cni", manifests, (workload,), workload)


def gateway(helm: str, charts: Path, site: Site) -> Addon:
    """Istio's ingress gateway."""
    http: dict[str, Any] = {"name": "http2", "port": 80, "targetPort": 8080}
    if site.gateway_service_type == "NodePort":
        http["nodePort"] = site.gateway_node_port
    values = {
        "service": {
            "type": site.gateway_service_type,
            "ports": [http],
        },
        "autoscaling": {"enabled": False},
        "resources": {
            "requests": {"cpu": "20m", "memory": "64Mi"},
            "limits": {"cpu": "2", "memory": "512Mi"},
        },
    }
    manifests = _helm(helm, "ingressgateway", charts / "istio-gateway", "istio-ingress", values)
    workload = ("deployment/ingressgateway", "istio-ingress")
    return Addon("gateway", manifests, (workload,), workload)


def argocd(install_manifest: Path, site: Site) -> Addon:
    """Argo CD: controller, repo server, ApplicationSets, notifications, its Redis."""
    documents = []
    for document in yaml.safe_load_all(install_manifest.read_text()):
        if document is None or ARGOCD_LEFT_OUT.match(document["metadata"]["name"]):
            continue
        if document["kind"] in ("ClusterRoleBinding", "RoleBinding"):
            for subject in document["subjects"]:
                if subject["kind"] == "ServiceAccount" and document["kind"].startswith("Cluster"):
                    subject["namespace"] = "argocd"
        if not document["kind"].startswith(("Cluster", "CustomResource")):
            document["metadata"]["namespace"] = "argocd"
        if document["metadata"]["name"] == "argocd-cmd-params-cm":
            document["data"] = {
                # A change that someone makes by hand is undone immediately.
                "controller.self.heal.timeout.seconds": "2",
                "controller.sync.timeout.seconds": "600",
                "reposerver.parallelism.limit": "4",
            }
        _replace_images(document, site.images)
        documents.append(document)
    return Addon(
        "argocd",
        yaml.safe_dump_all(documents, sort_keys=False),
        tuple(
            (workload, "argocd")
            for workload in (
                "deployment/argocd-redis",
                "deployment/argocd-repo-server",
                "deployment/argocd-applicationset-controller",
                "deployment/argocd-notifications-controller",
                "statefulset/argocd-application-controller",
            )
        ),
        ("statefulset/argocd-application-controller", "argocd"),
    )


def _replace_images(node: Any, images: Mapping[str, str]) -> None:
    for container in _containers(node):
        image = container["image"]
        if "/argoproj/argocd:" in image:
            container["image"] = images.get("argocd", image)
        elif "/redis:" in image:
            container["image"] = images.get("redis-upstream", images.get("redis", image))
        container["imagePullPolicy"] = "IfNotPresent"


def _containers(node: Any) -> Iterable[dict[str, Any]]:
    pod = node.get("spec", {}).get("template", {}).get("spec", {}) if isinstance(node, dict) else {}
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def fill(name: str, values: Mapping[str, str]) -> str:
    """One of our own manifests, with ``${name}`` replaced by the value of that name."""

    class _Dashed(Template):
        idpattern = "[a-z][a-z0-9_-]*"

    return _Dashed((MANIFESTS / name).read_text()).substitute(values)


def _fill(name: str, site: Site, **values: str) -> str:
    return fill(name, {**site.images, **values})


def _helm(
    helm: str,
    release: str,
    chart: Path,
    namespace: str,
    values: Mapping[str, Any] | None = None,
) -> str:
    done = subprocess.run(
        [
            *(helm, "template", release, str(chart)),
            *("--namespace", namespace, "--include-crds", "--values", "-"),
        ],
        input=yaml.safe_dump(dict(values or {})),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"helm could not render {release}: {done.stderr.strip()}")
    return done.stdout
