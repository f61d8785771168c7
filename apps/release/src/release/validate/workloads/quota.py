"""What the pods of an environment ask for together, held against its ResourceQuota."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from release.render.helm import Manifest, Release
from release.validate.environment import Environment, pod_template
from release.validate.findings import Finding, at_value
from release.validate.workloads.quantities import SIDECAR, or_zero, refusal

Amounts = dict[str, Decimal]


@dataclass(frozen=True)
class Demand:
    """What a release asks for: so many pods, each of a size, and the value that says how many."""

    release: Release
    pods: int
    most: int
    key: tuple[str, ...]
    each: Amounts = field(default_factory=dict)


def findings(environment: Environment) -> Iterator[Finding]:
    """What does not fit as soon as it runs, and what would not when one release grows."""
    quotas = list(environment.of_kind("ResourceQuota"))
    demands = [
        demand
        for release, manifests in environment.documents.items()
        if (demand := _demand(release, manifests)) is not None
    ]
    for quota in quotas:
        for resource, text in sorted(quota["spec"]["hard"].items()):
            if refusal(resource, str(text)) is not None:
                continue  # the quota itself is wrong
            hard, name = or_zero(text), _named(resource)
            total = sum((d.pods * d.each.get(name, Decimal(0)) for d in demands), Decimal(0))
            if total > hard:
                yield _beyond(environment, demands, resource, str(text), total)
                return  # one release too large goes beyond several limits
            for demand in demands:
                grown = total + (demand.most - demand.pods) * demand.each.get(name, Decimal(0))
                if grown > hard:
                    yield _too_many(environment, demand, resource, str(text), grown)
                    return


def _beyond(
    environment: Environment, demands: list[Demand], resource: str, hard: str, total: Decimal
) -> Finding:
    name = _named(resource)
    largest = max(demands, key=lambda d: d.pods * d.each.get(name, Decimal(0)))
    return at_value(
        environment.root, largest.release, ".".join(largest.key),
        f"{largest.pods} pods of {largest.release.name} and those of the other releases ask for "
        f"{shown(resource, total)} of {resource}, and the quota of {environment.name} has {hard}: "
        "Kubernetes refuses the rest",
        f"lower {'.'.join(largest.key)}, or raise quota in values/{environment.name}/"
        "environment.yaml", largest.key,
    )  # fmt: skip


def _too_many(
    environment: Environment, demand: Demand, resource: str, hard: str, total: Decimal
) -> Finding:
    return at_value(
        environment.root, demand.release, ".".join(demand.key),
        f"{demand.most} pods, the most that {demand.release.name} may grow to, make the "
        f"environment ask for {shown(resource, total)} of {resource}, and its quota has {hard}",
        f"lower {'.'.join(demand.key)}, or raise quota in values/{environment.name}/"
        "environment.yaml", demand.key,
    )  # fmt: skip


def _demand(release: Release, manifests: Sequence[Manifest]) -> Demand | None:
    workload = next((d for d in manifests if pod_template(d) is not None), None)
    if workload is None:
        return None
    template = pod_template(workload) or {}
    key: tuple[str, ...] = ("replicas",)
    pods = most = 1
    if workload["kind"] == "Deployment":
        pods = most = int(workload["spec"].get("replicas", 1))
    for document in manifests:
        spec = document.get("spec", {})
        if document["kind"] == "HorizontalPodAutoscaler":
            pods, most = int(spec.get("minReplicas", 1)), int(spec["maxReplicas"])
            key = ("autoscaling", "maxReplicas")
        elif document["kind"] == "ScaledObject":
            pods, most = int(spec.get("minReplicaCount", 0)), int(spec["maxReplicaCount"])
            key = ("keda", "maxReplicas")
    return Demand(release, pods, max(pods, most), key, _of_pod(template))


def _of_pod(template: Manifest) -> Amounts:
    """What one pod counts for in a quota, its sidecar and the largest init container included."""
    containers = template["spec"]["containers"]
    amounts: Amounts = {"pods": Decimal(1)}
    for group in ("requests", "limits"):
        running: Amounts = {}
        for container in containers:
            for resource, text in container.get("resources", {}).get(group, {}).items():
                running[resource] = running.get(resource, Decimal(0)) + or_zero(text)
        for container in template["spec"].get("initContainers", []):
            for resource, text in container.get("resources", {}).get(group, {}).items():
                running[resource] = max(running.get(resource, Decimal(0)), or_zero(text))
        amounts |= {f"{group}.{resource}": amount for resource, amount in running.items()}
    annotations: Mapping[str, str] = template["metadata"].get("annotations") or {}
    for resource, annotation in SIDECAR.items():
        if annotation in annotations:
            more = or_zero(annotations[annotation])
            amounts[resource] = amounts.get(resource, Decimal(0)) + more
    return amounts


def _named(resource: str) -> str:
    """A quota's short names mean requests."""
    return f"requests.{resource}" if resource in ("cpu", "memory") else resource


def shown(resource: str, amount: Decimal) -> str:
    """An amount as people write it: memory in Mi, the rest as a plain number."""
    if resource.endswith(("memory", "storage")):
        return f"{amount / 2**20:.0f}Mi"
    return f"{amount.normalize():f}"
