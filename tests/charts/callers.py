"""Requests from where they may not come: pods of other accounts, and no mesh at all."""

from __future__ import annotations

import subprocess
import sys

from tests.charts.scratch import NAMESPACE, kubectl

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
