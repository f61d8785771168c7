"""Hosts outside of the cluster that the mesh is to let through: names that can be right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from release.validate.environment import Environment
from release.validate.findings import Finding, at_value

_LABEL = re.compile(r"^(?!-)[a-z0-9-]{1,63}(?<!-)$")
_INSIDE = (".svc", ".cluster.local")


def findings(environment: Environment) -> Iterator[Finding]:
    """Of every ServiceEntry."""
    for release, manifests in environment.documents.items():
        for document in manifests:
            if document["kind"] != "ServiceEntry":
                continue
            name, spec = document["metadata"]["name"], document["spec"]
            key = ("egressHosts", name, "hosts")
            for host in spec["hosts"]:
                wrong = refusal(str(host), set(environment.services))
                if not wrong and "*" in host and spec["ports"][0]["protocol"] == "TCP":
                    wrong = "TCP says no name that a wildcard could be compared with", "use TLS"
                if wrong:
                    message, fix = wrong
                    yield at_value(
                        environment.root, release, ".".join(key),
                        f"lets {host!r} through, and {message}", fix, key, key[:2],
                    )  # fmt: skip


def refusal(host: str, services: set[str]) -> tuple[str, str] | None:
    """Why no request can go to a host under this name, and the fix; None where one can."""
    try:
        ip_address(host.strip("[]"))
        return "it is an address", "name the host; addresses belong under platform.peers"
    except ValueError:
        pass
    if "://" in host or "/" in host or ":" in host:
        bare = (
            host.rsplit("://", maxsplit=1)[-1].split("/", maxsplit=1)[0].split(":", maxsplit=1)[0]
        )
        return "a host has no scheme, port or path", f"write {bare}, and the port under port"
    if host != host.lower():
        return "names are compared in lower case", f"write {host.lower()}"
    if host.endswith(_INSIDE) or (
        host.split(".", maxsplit=1)[0] in services and host.count(".") < 2
    ):
        return "it is a Service of the cluster", "put it under platform.peers and meshNamespaces"
    labels = host.split(".")
    if labels[0] == "*":
        labels = labels[1:]
    if len(labels) < 2 or not all(_LABEL.match(label) for label in labels):
        return (
            "it is no name of a host",
            "write a full name such as api.example.com, or *.example.com for all below it",
        )
    return None
