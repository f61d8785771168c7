"""The programs that make up the cluster, and how they are started."""

from __future__ import annotations

import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import grpc

from cluster import layout
from cluster.layout import Layout
from cluster.process import Daemon


def registry(where: Layout) -> Daemon:
    """Debian's docker-registry, which stands for ECR."""
    return Daemon(
        "registry",
        ("docker-registry", "serve", str(where.config / "registry.yaml")),
        ready=lambda: _http(f"http://{layout.REGISTRY}/v2/"),
        environment={"OTEL_TRACES_EXPORTER": "none"},
        inputs=(where.config / "registry.yaml",),
    )


def etcd(where: Layout) -> Daemon:
    """etcd, with client certificates required: it holds every secret of the cluster."""
    url = f"https://127.0.0.1:{layout.ETCD_PORT}"
    peer = f"http://127.0.0.1:{layout.ETCD_PEER_PORT}"
    pki = where.pki
    return Daemon(
        "etcd",
        (
            "etcd",
            "--name=slipway",
            f"--data-dir={where.state / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=slipway={peer}",
            "--client-cert-auth",
            f"--trusted-ca-file={pki / 'etcd-ca.crt'}",
            f"--cert-file={pki / 'etcd-server.crt'}",
            f"--key-file={pki / 'etcd-server.key'}",
            "--auto-compaction-retention=1",
            "--quota-backend-bytes=4294967296",
            "--logger=zap",
            "--log-level=warn",
        ),
        ready=lambda: _https(f"{url}/health", pki / "etcd-ca.crt", pki / "etcd-client"),
        inputs=(pki / "etcd-server.crt",),
    )


def kube_apiserver(where: Layout) -> Daemon:
    """The API server, on the bridge's address only."""
    pki = where.pki
    return Daemon(
        "kube-apiserver",
        (
            where.program("kube-apiserver"),
            f"--advertise-address={layout.NODE_ADDRESS}",
            f"--bind-address={layout.NODE_ADDRESS}",
            f"--secure-port={layout.API_PORT}",
            f"--etcd-servers=https://127.0.0.1:{layout.ETCD_PORT}",
            f"--etcd-cafile={pki / 'etcd-ca.crt'}",
            f"--etcd-certfile={pki / 'etcd-client.crt'}",
            f"--etcd-keyfile={pki / 'etcd-client.key'}",
            f"--service-cluster-ip-range={layout.SERVICE_NETWORK}",
            # The gateway is a NodePort at the port that people are given.
            "--service-node-port-range=7000-32767",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            # The node's name resolves nowhere, and logs and exec need the kubelet.
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            # The aggregation layer needs an authority of its own: the API server refuses to
            # start when it is the clients' without a list of allowed names.
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
            "--enable-aggregator-routing=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
            # One node's worth of clients; the default keeps more history in memory.
            "--default-watch-cache-size=50",
        ),
        ready=lambda: _api_ready(where),
        inputs=(pki / "apiserver.crt", pki / "service-account.key"),
    )


def kube_controller_manager(where: Layout) -> Daemon:
    """The controllers."""
    pki = where.pki
    return Daemon(
        "kube-controller-manager",
        (
            where.program("kube-controller-manager"),
            f"--kubeconfig={pki / 'controller-manager.kubeconfig'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--profiling=false",
        ),
        ready=lambda: _https("https://127.0.0.1:10257/healthz", None),
        inputs=(pki / "controller-manager.kubeconfig",),
    )


def kube_scheduler(where: Layout) -> Daemon:
    """The scheduler."""
    return Daemon(
        "kube-scheduler",
        (
            where.program("kube-scheduler"),
            f"--kubeconfig={where.pki / 'scheduler.kubeconfig'}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--profiling=false",
        ),
        ready=lambda: _https("https://127.0.0.1:10259/healthz", None),
        inputs=(where.pki / "scheduler.kubeconfig",),
    )


def containerd(where: Layout) -> Daemon:
    """containerd with a root, a state and a socket of its own."""
    return Daemon(
        "containerd",
        ("containerd", "--config", str(where.config / "containerd.toml")),
        ready=lambda: _containerd_ready(where),
        inputs=(where.config / "containerd.toml", where.config / "runtime-spec.json"),
    )


def kubelet(where: Layout) -> Daemon:
    """The node's agent."""
    return Daemon(
        "kubelet",
        (
            where.program("kubelet"),
            f"--config={where.config / 'kubelet.yaml'}",
            f"--kubeconfig={where.pki / 'kubelet-client.kubeconfig'}",
            f"--root-dir={where.state / 'kubelet'}",
            f"--hostname-override={layout.NODE_NAME}",
            f"--node-ip={layout.NODE_ADDRESS}",
        ),
        ready=lambda: _http("http://127.0.0.1:10248/healthz"),
        inputs=(where.config / "kubelet.yaml", where.pki / "kubelet-client.kubeconfig"),
    )


def kube_proxy(where: Layout) -> Daemon:
    """Services, by iptables."""
    return Daemon(
        "kube-proxy",
        (where.program("kube-proxy"), f"--config={where.config / 'kube-proxy.yaml'}"),
        ready=lambda: _http("http://127.0.0.1:10256/livez"),
        inputs=(where.config / "kube-proxy.yaml", where.pki / "kube-proxy.kubeconfig"),
    )


def git_daemon(where: Layout, address: str = layout.NODE_ADDRESS) -> Daemon:
    """Serves the manifest repo to Argo CD, read-only."""
    return Daemon(
        "git",
        (
            # Not `git daemon`: that would be a parent whose death the daemon survives.
            f"{_git_programs()}/git-daemon",
            f"--base-path={where.manifest_repo.parent}",
            f"--listen={address}",
            f"--port={layout.GIT_PORT}",
            "--export-all",
            "--reuseaddr",
            "--informative-errors",
        ),
        ready=lambda: connects(address, layout.GIT_PORT),
        # Argo CD fetches by URL: the repo belongs to whoever ran `cluster up`.
        environment={
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        },
    )


def _git_programs() -> str:
    done = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _http(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback only
            return "" if answer.status == 200 else f"{url} answers {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{url}: {error}"


def _https(url: str, authority: Path | None, client: Path | None = None) -> str:
    context = ssl.create_default_context(cafile=str(authority) if authority else None)
    if authority is None:
        # The controllers serve health with a certificate they made up at start.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client is not None:
        context.load_cert_chain(f"{client}.crt", f"{client}.key")
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:  # noqa: S310
            return "" if answer.status == 200 else f"{url} answers {answer.status}"
    except (urllib.error.URLError, OSError) as error:
        return f"{url}: {error}"


def _api_ready(where: Layout) -> str:
    return _https(
        f"https://{layout.NODE_ADDRESS}:{layout.API_PORT}/readyz",
        where.pki / "ca.crt",
        where.pki / "admin",
    )


def _containerd_ready(where: Layout) -> str:
    # The kubelet's own first question: the plugin is listed as up before it answers.
    with grpc.insecure_channel(f"unix://{where.containerd_socket}") as channel:
        ask = channel.unary_unary("/runtime.v1.RuntimeService/Version")
        try:
            ask(b"", timeout=2)
        except grpc.RpcError as error:
            return str(error.details()) if isinstance(error, grpc.Call) else str(error)
    return ""


def connects(address: str, port: int) -> str:
    """Empty where something listens there, else what went wrong."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError as error:
        return f"{address}:{port}: {error}"
    return ""
