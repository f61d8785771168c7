"""Who may connect to whom, read out of the rendered NetworkPolicies and AuthorizationPolicies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from release.render.helm import Manifest, Release
from release.validate.environment import INSTANCE, Environment, pod_templates, selected
from release.validate.network import connections

_WITH_POLICIES = {"environment"}
"""The release that denies by default; each other one renders its own policies."""
_NAMESPACE = "kubernetes.io/metadata.name"


def namespaces(environment: Environment) -> set[str]:
    """Namespaces that the environment knows: its own, its peers' and those its sidecars see."""
    found = {release.namespace for release in environment.documents}
    for document in environment.of_kind("Sidecar"):
        for listener in document["spec"].get("egress", []):
            found |= {host.split("/", 1)[0] for host in listener.get("hosts", [])}
    for policy in environment.of_kind("NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                labels = peer.get("namespaceSelector", {}).get("matchLabels", {})
                found |= {labels[_NAMESPACE]} if _NAMESPACE in labels else set()
    return found - {".", "*", "~"}


def refusal(
    environment: Environment, caller: Release, service: str, namespace: str, port: int | None
) -> tuple[str, str] | None:
    """Why a release's pods do not reach a Service, and what to do; None where they do.

    An environment without any policy allows everything, and what a release that could not be
    rendered would allow is not known.
    """
    if environment.unseen & _WITH_POLICIES:
        return None
    labels = {INSTANCE: caller.name}
    pods = _pods(environment, labels) or [{"metadata": {"labels": labels}}]
    own = namespace == caller.namespace
    targets = _targets(environment, service) if own else []
    number = _container_port(environment, service, port) if own else port
    if (
        (not own or targets)
        and _isolated(environment, pods, "Egress")
        and not any(
            _rule_allows(
                rule.get("to"), rule.get("ports"), targets, None if own else namespace, number
            )
            for policy in _policies_on(environment, pods, "Egress")
            for rule in policy["spec"].get("egress", [])
        )
    ):
        return _network(environment, caller, service, namespace, port)
    if not own or not targets:
        return None  # another's pods are not seen; a Service without any is a finding of its own
    if _isolated(environment, targets, "Ingress") and not any(
        _rule_allows(rule.get("from"), rule.get("ports"), pods, None, number)
        for policy in _policies_on(environment, targets, "Ingress")
        for rule in policy["spec"].get("ingress", [])
    ):
        return _network(environment, caller, service, namespace, port)
    if not _authorized(environment, targets, caller):
        return (
            f"no AuthorizationPolicy lets {caller.name} call {service}",
            f"let the account of {caller.name} in there",
        )
    return None


def _network(
    environment: Environment, caller: Release, service: str, namespace: str, port: int | None
) -> tuple[str, str]:
    own = namespace == caller.namespace
    where = f"port {port} of {service}" + ("" if own else f" in {namespace}")
    message = f"no NetworkPolicy lets {caller.name} connect to {where}"
    every = connections.of(environment)
    mine = every[caller.name]
    number = f"{port or 8080}/TCP"
    if own:
        there = mine.place("calls", everywhere=connections.everywhere(environment, service))
        fix = f"add {connections.row(service, number)} under calls in {there}"
        if service in every and caller.name not in every[service].callers:
            shared = connections.everywhere(environment, caller.name)
            there = every[service].place("callers", everywhere=shared)
            fix += f" and {connections.row(caller.name, number)} under callers in {there}"
        return message, fix
    name = next(
        (
            name
            for name, peer in mine.peers.items()
            if peer.get("namespace") == namespace and number in (peer.get("ports") or ())
        ),
        None,
    )
    if name is None:
        name = service
        fix = (
            f"add `{name}: {{namespace: {namespace}, ports: [{number}]}}` under platform.peers in "
            f"{mine.place('platform')} and "
        )
    else:
        fix = "add "
    return message, f"{fix}`{name}: true` under uses in {mine.place('uses')}"


def _pods(environment: Environment, labels: Mapping[str, str]) -> list[Manifest]:
    return [pod for pod in pod_templates(environment.everything) if selected(labels, pod)]


def _targets(environment: Environment, service: str) -> list[Manifest]:
    selector = environment.services[service]["spec"].get("selector", {})
    return _pods(environment, selector) if selector else []


def _container_port(environment: Environment, service: str, port: int | None) -> int | None:
    """The pods' port behind a Service's: what a NetworkPolicy is about."""
    ports = environment.services[service]["spec"]["ports"]
    target: Any = next((p.get("targetPort", p["port"]) for p in ports if p["port"] == port), port)
    if isinstance(target, int) or target is None:
        return target
    for pod in _targets(environment, service):
        for container in pod["spec"]["containers"]:
            for one in container.get("ports", []):
                if one.get("name") == target:
                    return int(one["containerPort"])
    return port


def _policies_on(
    environment: Environment, pods: Sequence[Manifest], direction: str
) -> Iterator[Manifest]:
    for policy in environment.of_kind("NetworkPolicy"):
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        if direction in policy["spec"].get("policyTypes", []) and any(
            selected(labels, pod) for pod in pods
        ):
            yield policy


def _isolated(environment: Environment, pods: Sequence[Manifest], direction: str) -> bool:
    return any(True for _ in _policies_on(environment, pods, direction))


def _rule_allows(
    peers: Sequence[Manifest] | None,
    ports: Sequence[Manifest] | None,
    pods: Sequence[Manifest],
    namespace: str | None,
    port: int | None,
) -> bool:
    """Whether one rule lets a port of these pods through; ``namespace`` is that of pods elsewhere.

    Pods of the environment itself are known by their labels, so it is None for them.
    """
    if ports and port is not None and not any(_port_fits(entry, port) for entry in ports):
        return False
    return not peers or any(_peer_fits(peer, pods, namespace) for peer in peers)


def _port_fits(entry: Manifest, port: int) -> bool:
    first = entry.get("port")
    if not isinstance(first, int):
        return True
    last: int = entry.get("endPort", first)
    return entry.get("protocol", "TCP") == "TCP" and first <= port <= last


def _peer_fits(peer: Manifest, pods: Sequence[Manifest], namespace: str | None) -> bool:
    if "ipBlock" in peer:
        return namespace is not None  # addresses of pods are not known before they run
    if "namespaceSelector" in peer:
        labels: Mapping[str, str] = peer["namespaceSelector"].get("matchLabels", {})
        return namespace is not None and labels.get(_NAMESPACE, namespace) == namespace
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    return namespace is None and any(selected(labels, pod) for pod in pods)


def _authorized(environment: Environment, targets: Sequence[Manifest], caller: Release) -> bool:
    """Whether an ALLOW policy on the pods names the caller's identity, or none is on them."""
    guarded = False
    for policy in environment.of_kind("AuthorizationPolicy"):
        spec = policy["spec"]
        if policy["metadata"]["namespace"] != caller.namespace:
            continue
        labels = spec.get("selector", {}).get("matchLabels", {})
        if spec.get("action", "ALLOW") != "ALLOW" or not any(
            selected(labels, pod) for pod in targets
        ):
            continue
        guarded = True
        for rule in spec.get("rules", []):
            sources = [one["source"].get("principals", []) for one in rule.get("from", [])]
            if not sources:
                return True
            if any(_is(principal, caller) for some in sources for principal in some):
                return True
    return not guarded


def _is(principal: str, caller: Release) -> bool:
    identity = f"/ns/{caller.namespace}/sa/{caller.name}"
    return principal == "*" or principal.endswith(identity)
