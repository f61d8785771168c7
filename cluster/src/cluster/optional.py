"""Add-ons that `cluster up` leaves out for their time and memory: KEDA and Prometheus.

They are their makers' own manifests, out of their Go modules; the images are built here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster import addons, build, images
from cluster.addons import Addon
from cluster.errors import ClusterError
from cluster.kube import Kubectl
from cluster.layout import Layout

NAMES = tuple(build.OPTIONAL)
# The module whose files an add-on is installed by.
MODULES = {"keda": "keda", "prometheus": "prometheus-operator"}
# What shows that a cluster has the add-on, whoever installed it.
EVIDENCE = {
    "keda": "customresourcedefinition/scaledobjects.keda.sh",
    "prometheus": "customresourcedefinition/prometheuses.monitoring.coreos.com",
}
# Names of the makers' images, as their manifests have them, and of ours.
_IMAGES = {
    "kedacore/keda": "keda",
    "kedacore/keda-metrics-apiserver": "keda-adapter",
    "prometheus-operator/prometheus-operator": "prometheus-operator",
    "prometheus-operator/prometheus-config-reloader": "prometheus-config-reloader",
}
_REFERENCE = re.compile(rf"[\w./-]*?({'|'.join(map(re.escape, _IMAGES))}):[\w.-]+")

Report = Callable[[str], None]


def check_answers(kubectl: Kubectl) -> None:
    """Raise ClusterError where no cluster answers: better now than after minutes of building."""
    try:
        kubectl.run("get", "--raw", "/readyz")
    except (ClusterError, OSError) as error:
        raise ClusterError(
            f"there is no cluster to bring add-ons into: {error}", fix="run `make up`"
        ) from error


def ensure(where: Layout, kubectl: Kubectl, name: str, report: Report) -> None:
    """Build an add-on of ``NAMES``, make its images and bring it into the running cluster."""
    programs = build.ensure(where, build.OPTIONAL[name], report)
    shared = build.ensure_shared(where, MODULES[name])
    references = images.references(programs, shared, images.OPTIONAL[name])
    for image in images.OPTIONAL[name]:
        word = images.ensure(where, image, references[image.name], programs, shared)
        report(f"image {image.name} {word}")
    for addon in _addons(name, kubectl, shared, references):
        report(f"{addon.name} {addons.ensure(kubectl, addon)}")
        # What follows is of a kind that the API server may have learnt of just now.
        kubectl.run("wait", "--for=condition=Established", "--timeout=60s", EVIDENCE[name])


def _addons(
    name: str, kubectl: Kubectl, shared: Path, references: Mapping[str, str]
) -> list[Addon]:
    if name == "keda":
        return [keda(kubectl.run("kustomize", str(shared / "keda" / "minimal")), references)]
    bundle = (shared / "prometheus-operator.yaml").read_text()
    return [prometheus_operator(bundle, references), prometheus(references)]


def keda(manifests: str, references: Mapping[str, str]) -> Addon:
    """KEDA's operator, which makes its own certificates, and what answers autoscalers for it."""
    workloads = (
        ("deployment/keda-operator", "keda"),
        ("deployment/keda-metrics-apiserver", "keda"),
    )
    # The minimal manifests leave the admission webhooks out, but not the care for their authority.
    text = re.sub(
        r"^( *- )--enable-cert-rotation=true$",
        r"\g<0>\n\1--enable-webhook-patching=false",
        with_images(manifests, references),
        flags=re.MULTILINE,
    )
    return Addon("keda", text, workloads, workloads[0])


def prometheus_operator(bundle: str, references: Mapping[str, str]) -> Addon:
    """What makes configuration of ServiceMonitors, PodMonitors and PrometheusRules."""
    namespace: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "monitoring"},
    }
    # The bundle is made for the namespace `default`.
    text = bundle.replace("namespace: default", "namespace: monitoring")
    manifests = yaml.safe_dump(namespace) + "---\n" + with_images(text, references)
    workload = ("deployment/prometheus-operator", "monitoring")
    return Addon("prometheus-operator", manifests, (workload,), workload)


def prometheus(references: Mapping[str, str]) -> Addon:
    """A Prometheus for all namespaces."""
    values = {**references, "prometheus_version": build.PROMETHEUS_VERSION}
    workload = ("statefulset/prometheus-prometheus", "monitoring")
    return Addon("prometheus", addons.fill("prometheus.yaml", values), (workload,), workload)


def with_images(manifests: str, references: Mapping[str, str]) -> str:
    """The manifests with our images for their makers'; present ones are not asked for again."""
    text = _REFERENCE.sub(lambda found: references[_IMAGES[found[1]]], manifests)
    return text.replace("imagePullPolicy: Always", "imagePullPolicy: IfNotPresent")
