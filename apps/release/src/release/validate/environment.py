"""One environment as its charts render it, and what several checks ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from release.render.helm import Manifest, Release

INSTANCE = "app.kubernetes.io/instance"


@dataclass(frozen=True)
class Environment:
    """The rendered objects of one environment, by release."""

    root: Path
    documents: Mapping[Release, Sequence[Manifest]]
    unseen: frozenset[str] = frozenset()
    """Releases that could not be rendered: what they would have is not known."""
    listed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The releases of every environment of the tree."""

    @property
    def name(self) -> str:
        """The environment's name."""
        return next((release.environment for release in self.documents), "")

    @cached_property
    def everything(self) -> list[Manifest]:
        """All objects."""
        return [document for one in self.documents.values() for document in one]

    @cached_property
    def services(self) -> dict[str, Manifest]:
        """Services by name."""
        return {d["metadata"]["name"]: d for d in self.of_kind("Service")}

    @cached_property
    def external(self) -> set[str]:
        """Hosts outside of the cluster that a ServiceEntry lets through."""
        return {host for d in self.of_kind("ServiceEntry") for host in d["spec"]["hosts"]}

    @cached_property
    def subsets(self) -> dict[str, set[str]]:
        """Subsets that DestinationRules have, by host."""
        found: dict[str, set[str]] = {}
        for document in self.of_kind("DestinationRule"):
            names = {subset["name"] for subset in document["spec"].get("subsets", [])}
            found.setdefault(document["spec"]["host"], set()).update(names)
        return found

    @cached_property
    def gateways(self) -> set[tuple[str, str]]:
        """Namespace and name of each Gateway."""
        return {
            (d["metadata"]["namespace"], d["metadata"]["name"]) for d in self.of_kind("Gateway")
        }

    def of_kind(self, kind: str) -> Iterator[Manifest]:
        """Objects of a kind, whatever their API group."""
        return (document for document in self.everything if document["kind"] == kind)

    def release(self, chart: str) -> Release | None:
        """The release of a chart of which an environment has one, like `routing`."""
        return next((release for release in self.documents if release.chart == chart), None)

    def only_elsewhere(self, name: str) -> list[str]:
        """Other environments that have a release of this name, which this one lacks."""
        if name in self.listed.get(self.name, ()):
            return []
        return sorted(other for other, names in self.listed.items() if name in names)


def pod_template(document: Manifest) -> Manifest | None:
    """The pod template of a workload; None for what runs no pods."""
    spec: Any = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    elif document["kind"] not in ("Deployment", "Job", "StatefulSet", "DaemonSet"):
        return None
    template: Manifest = spec["template"]
    return template


def pod_templates(documents: Iterable[Manifest]) -> Iterator[Manifest]:
    """The pod templates of all workloads."""
    for document in documents:
        template = pod_template(document)
        if template is not None:
            yield template


def containers(document: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Name and container of a workload's pods, those that run first included."""
    template = pod_template(document)
    if template is None:
        return
    for group in ("initContainers", "containers"):
        for container in template["spec"].get(group, []):
            yield container["name"], container


def selected(selector: Mapping[str, str], template: Manifest) -> bool:
    """Whether a label selector takes the pods of a template."""
    labels: Mapping[str, str] = template["metadata"].get("labels", {})
    return selector.items() <= labels.items()
