"""Requests from where they may not come: pods of other accounts, and no mesh at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.charts.scratch import NAMESPACE, eventually, kubectl

_GET = """
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print("refused")
"""


def status_from_pod(namespace: str, pod: str, container: str, url: str) -> str:
    """The status that a container gets from a URL, or ``refused``."""
    command = ("exec", pod, "-n", namespace, "-c", container, "--")
    return kubectl(*command, "python3", "-c", _GET, url).strip()


def status_from(namespace: str, release: str, url: str) -> str:
    """The status that a pod of a release gets from a URL, or ``refused``."""
    return status_from_pod(namespace, f"deployment/{release}", release, url)


def plain_text_status() -> str:
    """The status that a process of the node, which is in no mesh, gets from inference."""
    path = "jsonpath={.spec.clusterIP}"
    address = kubectl("get", "service", "inference", "-n", NAMESPACE, "-o", path)
    direct = f"http://{address}:8080/v2/models/digits"
    answer = subprocess.run(
        [sys.executable, "-c", _GET, direct], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


@contextmanager
def pod_elsewhere(name: str, command: Sequence[str], *, mesh: bool) -> Iterator[str]:
    """A pod in a namespace of its own, within the mesh or not, and its Service at 8080."""
    namespace = f"{NAMESPACE}-{name}"
    deployment = json.loads(
        kubectl("get", "deployment", "inference", "-n", NAMESPACE, "-o", "json")
    )
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    labels = {"app": name, "sidecar.istio.io/inject": str(mesh).lower()}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": name, "image": image, "command": list(command)}],
        },
    }
    ports = [{"name": "http", "port": 8080, "targetPort": 8080}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": ports},
    }
    try:
        kubectl("create", "namespace", namespace)
        # The account is made a moment after its namespace.
        eventually(
            lambda: kubectl("get", "serviceaccount", "-n", namespace, "-o", "name"),
            lambda text: "default" in text,
        )
        objects = {"apiVersion": "v1", "kind": "List", "items": [pod, service]}
        kubectl("apply", "--server-side", "-f", "-", text=json.dumps(objects))
        ready = ("--for=condition=Ready", "--timeout=120s")
        kubectl("wait", f"pod/{name}", "-n", namespace, *ready)
        yield namespace
    finally:
        kubectl("delete", "namespace", namespace, "--wait=true", "--ignore-not-found")
