"""A real API server, without nodes, whose admission judges what the charts render."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from pathlib import Path
from ssl import CERT_NONE, SSLContext, create_default_context

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import programs
from tests.charts.rendering import Manifest, manifests

TOKEN = "for-this-test-alone"
# Kinds that the server knows without CRDs; the others are checked by their schemas.
CORE_GROUPS = ("v1", "apps/v1", "autoscaling/v2", "batch/v1", "networking.k8s.io/v1", "policy/v1")


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where it listens."""

    url: str
    home: Path
    plurals: dict[tuple[str, str], str] = field(default_factory=dict)
    """How a kind of an API is called in paths, as far as it was asked."""

    def kubectl(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl as an administrator, with ``text`` on its standard input."""
        command = [
            programs.require("kubectl"),
            *("--server", self.url, "--token", TOKEN, "--insecure-skip-tls-verify"),
            *arguments,
        ]
        environment = {**os.environ, "HOME": str(self.home), "KUBECONFIG": os.devnull}
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, env=environment
        )

    def send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Manifest]:
        """One request without a program to start; the status and what was answered."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=body,
            method=method,
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Accept": "application/json",
                **({"Content-Type": "application/apply-patch+yaml"} if body else {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=90, context=_unverified()) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def refusal(self, one: Manifest) -> str:
        """Why a server-side apply of an object is refused; empty where not. Nothing is stored."""
        version, name = one["apiVersion"], one["metadata"]["name"]
        root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        namespace = one["metadata"].get("namespace")
        inside = f"/namespaces/{namespace}" if namespace else ""
        query = "fieldManager=kubectl&force=false&dryRun=All&fieldValidation=Strict"
        path = f"{root}{inside}/{self._plural(root, one['kind'])}/{name}?{query}"
        status, answer = self.send("PATCH", path, json.dumps(one).encode())
        return "" if status < HTTPStatus.BAD_REQUEST else str(answer["message"])

    def _plural(self, root: str, kind: str) -> str:
        if (root, kind) not in self.plurals:
            status, answer = self.send("GET", root)
            assert status == HTTPStatus.OK, answer
            found = {one["kind"]: one["name"] for one in answer["resources"]
                     if "/" not in one["name"]}  # fmt: skip
            self.plurals.update({(root, name): plural for name, plural in found.items()})
        return self.plurals[root, kind]

    def admit(self, text: str) -> str:
        """Apply rendered manifests and, dry, the pods they would become; what was refused."""
        known = [one for one in manifests(text) if one["apiVersion"] in CORE_GROUPS]
        first = [one for one in known if one["kind"] == "Namespace"]
        rest = [one for one in known if one["kind"] != "Namespace"]
        refused = ""
        for group in (first, rest):
            if group:
                answer = self._apply(group)
                refused += answer.stderr
        pods = [pod for one in rest for pod in _pods(one)]
        if pods:
            refused += self._apply(pods, "--dry-run=server").stderr
        return refused

    def _apply(self, objects: list[Manifest], *flags: str) -> subprocess.CompletedProcess[str]:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return self.kubectl(
            *("apply", "--server-side", "--force-conflicts", *flags, "--filename", "-"),
            text=listed,
        )


def _pods(workload: Manifest) -> Iterator[Manifest]:
    """The pod that a Deployment, Job or CronJob would make."""
    spec = workload.get("spec", {})
    template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    if template is not None:
        metadata = workload["metadata"]
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
            },
            "spec": template["spec"],
        }


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Start etcd and kube-apiserver, and end both."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key_file = folder / "service-account.key"
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (folder / "tokens.csv").write_text(f"{TOKEN},tester,tester,system:masters\n", encoding="utf-8")
    client, peer, secure = _free_port(), _free_port(), _free_port()
    etcd = [
        programs.require("etcd"),
        *("--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--log-level", "error"),
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
    ]
    server = [
        programs.require("kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{client}",
        f"--secure-port={secure}",
        *("--bind-address=127.0.0.1", f"--cert-dir={folder / 'certificates'}"),
        *("--service-cluster-ip-range=198.19.0.0/16", "--authorization-mode=RBAC"),
        f"--token-auth-file={folder / 'tokens.csv'}",
        f"--service-account-key-file={key_file}",
        f"--service-account-signing-key-file={key_file}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--v=0",
    ]
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("wb") as log:
        try:
            for command in (etcd, server):
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
            running = ApiServer(f"https://127.0.0.1:{secure}", folder)
            _wait_until_ready(running.url, started, folder / "log")
            yield running
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGKILL)
                process.wait()


def _wait_until_ready(url: str, started: list[subprocess.Popen[bytes]], log: Path) -> None:
    request = urllib.request.Request(f"{url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        dead = [process.args for process in started if process.poll() is not None]
        assert not dead, f"{dead} ended:\n{log.read_text(errors='replace')[-2000:]}"
        try:
            with urllib.request.urlopen(request, timeout=5, context=_unverified()):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"not ready in 90 s:\n{log.read_text(errors='replace')[-2000:]}")


@cache
def _unverified() -> SSLContext:
    """The server's certificate is its own; made once, for it reads the machine's authorities."""
    trusting = create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = CERT_NONE
    return trusting


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
