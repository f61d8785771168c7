"""Rows about who may call whom name releases that the environment has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from release import layout
from release.render import Manifest, Release
from release.validate.environment import INSTANCE, Environment
from release.validate.findings import Finding, at_value


def findings(environment: Environment) -> Iterator[Finding]:
    """Of every AuthorizationPolicy and NetworkPolicy."""
    for release, manifests in environment.documents.items():
        for document in manifests:
            if document["kind"] == "AuthorizationPolicy":
                yield from _of_authorization(environment, release, document)
            elif document["kind"] == "NetworkPolicy":
                yield from _of_network(environment, release, document)


def _of_authorization(
    environment: Environment, release: Release, policy: Manifest
) -> Iterator[Finding]:
    service = _instance(policy["spec"].get("selector", {}))
    if service is None or policy["metadata"]["namespace"] != release.namespace:
        return
    if not _known(environment, service):
        return  # its routes and rules name it, too, and that is one fault
    for caller in _callers(policy, release.namespace):
        if not _known(environment, caller):
            path = ("services", service, "callers", caller)
            yield from _unknown(environment, release, caller, path)


def _of_network(environment: Environment, release: Release, policy: Manifest) -> Iterator[Finding]:
    service = _instance(policy["spec"]["podSelector"])
    if service is None:
        return
    if not _known(environment, service):
        yield from _unknown(environment, release, service, ("services", service))
        return
    for rule in policy["spec"].get("ingress", []):
        for peer in rule.get("from", []):
            caller = _instance(peer.get("podSelector", {}))
            if caller is not None and "namespaceSelector" not in peer:
                path = ("services", service, "from", caller)
                if not _known(environment, caller):
                    yield from _unknown(environment, release, caller, path)


def _unknown(
    environment: Environment, release: Release, name: str, path: Sequence[str]
) -> Iterator[Finding]:
    key = ".".join(path)
    here = environment.name
    others = environment.only_elsewhere(name)
    names = sorted(r.name for r in environment.documents if r.chart == "service")
    near = difflib.get_close_matches(name, names, n=1)
    if others:
        message = (
            f"names {name!r}, which the environment does not have, only {' and '.join(others)}"
        )
        fix = (
            f"move the row to values/{others[0]}/{release.name}.yaml, or add {name} to "
            f"{layout.environment_file(here)}"
        )
    else:
        message = f"names {name!r}, which is no release of the environment"
        fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names) or '(none)'}"
    yield at_value(environment.root, release, key, message, fix, path)


def _known(environment: Environment, name: str) -> bool:
    return name in environment.unseen or any(r.name == name for r in environment.documents)


def _instance(selector: Manifest) -> str | None:
    labels = selector.get("matchLabels") or {}
    name = labels.get(INSTANCE)
    return str(name) if name else None


def _callers(policy: Manifest, namespace: str) -> Iterator[str]:
    """Releases of the namespace whose accounts a policy names."""
    for rule in policy["spec"].get("rules", []):
        for source in rule.get("from", []):
            for principal in source["source"].get("principals", []):
                _, found, account = principal.partition(f"/ns/{namespace}/sa/")
                if found:
                    yield account
