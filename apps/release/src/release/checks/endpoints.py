"""The live addresses behind a Service, as EndpointSlices have them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from release.checks.answers import Problem
from release.cluster.client import Object

_SERVICE = "kubernetes.io/service-name"


def ready_addresses(service: str, slices: Sequence[Object]) -> int | None:
    """How many pods a Service leads to; None where nothing speaks of such a Service."""
    its = [one for one in slices if one["metadata"].get("labels", {}).get(_SERVICE) == service]
    if not its:
        return None
    ready = set()
    for one in its:
        for endpoint in one.get("endpoints") or ():
            # `ready` absent is to be read as true.
            if (endpoint.get("conditions") or {}).get("ready", True) is not False:
                ready |= set(endpoint["addresses"])
    return len(ready)


def problem(service: str, slices: Sequence[Object]) -> Problem | None:
    """Why nobody reaches a service by its name, if so."""
    ready = ready_addresses(service, slices)
    if ready is None:
        return Problem(
            f"there is no Service {service} (nor endpoints of one)",
            "Argo CD makes it again as soon as it compares; if it does not, see that its "
            "controller runs",
        )
    if ready == 0:
        return Problem(
            f"Service {service} leads to no ready pod",
            "see that its selector fits the labels of the pods, and that pods are ready",
        )
    return None
