"""A gateway of one's own, like the installed one, that a test may kill."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.charts.scratch import NAMESPACE, kubectl, wait_for

NAME = "ingressgateway"


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where it listens, and what charts/routing has to know of it."""

    namespace: str
    url: str

    @property
    def values(self) -> dict[str, Any]:
        """The routing chart's ``gateway``."""
        return {"namespace": self.namespace, "selector": {"istio": self.namespace}}

    def pods(self) -> list[str]:
        """Names of the pods that run and are not told to stop."""
        listed = json.loads(kubectl("get", "pods", "-n", self.namespace, "-o", "json"))["items"]
        return [
            pod["metadata"]["name"]
            for pod in listed
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]

    def envoy(self, path: str) -> str:
        """An answer of one pod's Envoy's administration."""
        command = ("exec", self.pods()[0], "-n", self.namespace, "--")
        return kubectl(*command, "pilot-agent", "request", "GET", path)

    def listens(self) -> bool:
        """Whether it takes connections, which it does once a route binds to it."""
        place = urlsplit(self.url)
        try:
            socket.create_connection((place.hostname, place.port), timeout=1).close()
        except OSError:
            return False
        return True

    def wait(self) -> None:
        """Until all pods are ready."""
        wait_for(self.namespace, NAME)


@contextmanager
def own_gateway(
    suffix: str, replicas: int, labels: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """A copy of the installed gateway's Deployment in a namespace of its own, at a node port."""
    namespace = f"{NAMESPACE}-{suffix}"
    installed = json.loads(kubectl("get", "deployment", NAME, "-n", "istio-ingress", "-o", "json"))[
        "spec"
    ]
    own = {"istio": namespace, "app": namespace}
    template = installed["template"]
    template["metadata"]["labels"] |= {**own, **(labels or {})}
    ports = [{"name": "http2", "port": 80, "targetPort": 8080, "protocol": "TCP"}]

    def thing(api: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:
        metadata = {"name": name} | ({} if kind == "Namespace" else {"namespace": namespace})
        return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}

    deployment = {
        "replicas": replicas,
        "selector": {"matchLabels": own},
        "strategy": installed["strategy"],
        "template": template,
    }
    budget = {"minAvailable": 1, "selector": {"matchLabels": own}}
    items = [
        thing("v1", "Namespace", namespace),
        thing("v1", "ServiceAccount", NAME),
        thing("v1", "Service", NAME, spec={"type": "NodePort", "selector": own, "ports": ports}),
        thing("policy/v1", "PodDisruptionBudget", NAME, spec=budget),
        thing("apps/v1", "Deployment", NAME, spec=deployment),
    ]
    try:
        for item in items:
            kubectl("apply", "--server-side", "-f", "-", text=json.dumps(item))
        path = "jsonpath={.spec.ports[0].nodePort}"
        port = kubectl("get", "service", NAME, "-n", namespace, "-o", path)
        gateway = Gateway(namespace, f"http://127.0.0.1:{port}")
        gateway.wait()
        yield gateway
    finally:
        kubectl("delete", "namespace", namespace, "--wait=true", "--ignore-not-found")
