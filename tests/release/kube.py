"""A real Kubernetes API to look at: kube-apiserver and etcd, nothing behind them.

No controllers and no kubelet run, so tests write the status that those would.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.ports import free_port
from tests.programs import require
from tests.waits import until

TOKEN = "test-token"
NAMESPACES = ("argocd", "dev", "stage", "prod")
APPLICATIONS = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications"


@dataclass
class Kubernetes:
    """Calls to the API, and the kubeconfig that leads there."""

    client: httpx.Client
    kubeconfig: Path

    def send(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = self.client.request(method, path, json=body, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def put(self, path: str, item: dict[str, Any], subresource: bool = True) -> Any:
        """Create or replace an object, its status too."""
        if self.client.get(f"{path}/{item['metadata']['name']}").status_code == 404:
            made = self.send("POST", path, item)
        else:
            made = self._replace(path, item)
        if subresource and "status" in item:
            made = self._replace(path, item, "/status")
        return made

    def _replace(self, path: str, item: dict[str, Any], part: str = "") -> Any:
        """Put it over whatever is there, as a controller does: again when somebody else was
        faster."""
        place = f"{path}/{item['metadata']['name']}"
        while True:
            version = self.send("GET", place)["metadata"]["resourceVersion"]
            written = {**item, "metadata": {**item["metadata"], "resourceVersion": version}}
            answer = self.client.put(f"{place}{part}", json=written)
            if answer.status_code != 409:
                assert answer.is_success, f"PUT {place}{part}: {answer.text}"
                return answer.json()

    def namespace(self, name: str) -> None:
        answer = self.client.post("/api/v1/namespaces", json={"metadata": {"name": name}})
        assert answer.status_code in (201, 409), answer.text

    def empty(self) -> None:
        """Take away what an earlier test left, whichever file it was in."""
        kinds = {
            "/api/v1": ("pods", "configmaps", "events", "secrets"),
            "/apis/apps/v1": ("deployments", "replicasets"),
            "/apis/batch/v1": ("cronjobs", "jobs"),
            APPLICATIONS.partition("/namespaces/")[0]: ("applications",),
        }
        for api, kind in ((api, kind) for api, listed in kinds.items() for kind in listed):
            # Mostly there is nothing: one question costs less than a deletion in each namespace.
            items = self.send("GET", f"{api}/{kind}")["items"]
            for namespace in {one["metadata"]["namespace"] for one in items} & set(NAMESPACES):
                path = f"{api}/namespaces/{namespace}/{kind}"
                self.client.delete(path, params={"gracePeriodSeconds": "0"})


def argocd_crd() -> dict[str, Any]:
    """Argo CD's own definition of Application, out of the module cache."""
    modules = Path(os.environ.get("GOMODCACHE") or Path.home() / "go/pkg/mod")
    found = sorted(
        modules.glob("github.com/argoproj/argo-cd/v3@*/manifests/crds/application-crd.yaml")
    )
    if not found:
        reason = "Argo CD's module is not in the cache: run `make programs`"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    crd: dict[str, Any] = yaml.load(found[-1].read_text(), yaml.CSafeLoader)
    return crd


@contextmanager
def kubernetes(folder: Path) -> Iterator[Kubernetes]:
    """Start both; the folder holds their data, keys and logs."""
    etcd, apiserver = require("etcd"), require("kube-apiserver")
    client_port, peer_port, port = free_port(), free_port(), free_port()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "tokens.csv").write_text(f"{TOKEN},tester,tester,system:masters\n")
    logs = (folder / "log").open("w")
    commands = [
        [
            etcd, "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", f"http://127.0.0.1:{client_port}",
            "--advertise-client-urls", f"http://127.0.0.1:{client_port}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer_port}",
            "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer_port}",
            "--initial-cluster", f"default=http://127.0.0.1:{peer_port}",
        ],
        [
            apiserver, "--etcd-servers", f"http://127.0.0.1:{client_port}",
            "--cert-dir", str(folder / "certs"), "--secure-port", str(port),
            "--bind-address", "127.0.0.1", "--service-cluster-ip-range", "10.0.0.0/24",
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", str(folder / "sa.key"),
            "--service-account-signing-key-file", str(folder / "sa.key"),
            "--token-auth-file", str(folder / "tokens.csv"),
            "--authorization-mode", "RBAC",
            "--disable-admission-plugins", "ServiceAccount",
            "--watch-cache=false",
        ],
    ]  # fmt: skip
    processes = [
        subprocess.Popen(command, stdout=logs, stderr=subprocess.STDOUT) for command in commands
    ]
    try:
        certificate = folder / "certs" / "apiserver.crt"
        log = folder / "log"

        def ended() -> list[int]:
            return [code for one in processes if (code := one.poll()) is not None]

        def certified() -> bool:
            assert not ended(), f"ended with {ended()}: {log.read_text()[-2000:]}"
            return certificate.exists()

        until(certified, "the API server's certificate")
        client = httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            verify=ssl.create_default_context(cafile=str(certificate)),
            timeout=90,
        )
        with client:

            def ready() -> bool:
                assert not ended(), f"ended with {ended()}: {log.read_text()[-2000:]}"
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.HTTPError:
                    return False

            until(ready, "the API server")
            kubeconfig = folder / "kubeconfig"
            kubeconfig.write_text(json.dumps(_kubeconfig(port, certificate)))
            running = Kubernetes(client, kubeconfig)
            definition = argocd_crd()
            running.send(
                "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition
            )
            served = "/apis/argoproj.io/v1alpha1"
            until(lambda: client.get(served).status_code == 200, "Argo CD's definition")
            for name in NAMESPACES:
                running.namespace(name)
            yield running
    finally:
        # Their data is thrown away: nothing to finish in good order.
        for process in reversed(processes):
            process.kill()
            process.wait(90)
        logs.close()


def _kubeconfig(port: int, certificate: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [
            {
                "name": "test",
                "cluster": {
                    "server": f"https://127.0.0.1:{port}",
                    "certificate-authority": str(certificate),
                },
            }
        ],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
    }
