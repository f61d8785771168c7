"""The configuration files of the programs that make up the cluster."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path

import yaml

from cluster import layout
from cluster.layout import Layout


def write_all(where: Layout, pause_image: str) -> None:
    """Write the files that the programs of ``parts`` are pointed at."""
    where.config.mkdir(parents=True, exist_ok=True)
    _write(where.config / "registry.yaml", yaml.safe_dump(_registry(where)))
    _write(where.config / "kubelet.yaml", yaml.safe_dump(_kubelet(where)))
    _write(where.config / "kube-proxy.yaml", yaml.safe_dump(_kube_proxy(where)))
    _write(where.config / "containerd.toml", _containerd(where, pause_image))


def write_runtime_spec(where: Layout) -> None:
    """containerd's default container spec, with limits this machine's root may grant."""
    target = where.config / "runtime-spec.json"
    default = subprocess.run(["ctr", "oci", "spec"], capture_output=True, text=True, check=True)
    spec = json.loads(default.stdout)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": hard, "soft": hard}]
    _write(target, json.dumps(spec, indent=1))


def _resolver_configuration() -> str:
    """The machine's own resolver file: systemd's stub on loopback is no use inside a pod."""
    behind_stub = Path("/run/systemd/resolve/resolv.conf")
    return str(behind_stub if behind_stub.is_file() else "/etc/resolv.conf")


def _registry(where: Layout) -> dict[str, object]:
    return {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(where.state / "registry")},
            "delete": {"enabled": True},
        },
        "http": {"addr": layout.REGISTRY},
    }


def _kubelet(where: Layout) -> dict[str, object]:
    pki = where.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet-server.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        # Forgives a root that may not raise limits, as in a container.
        "featureGates": {"KubeletInUserNamespace": True},
        "enforceNodeAllocatable": [],
        "clusterDNS": [layout.DNS_SERVICE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": _resolver_configuration(),
        "containerRuntimeEndpoint": f"unix://{where.containerd_socket}",
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        # The disk is the machine's, not the cluster's: what fills it is none of our images.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "podLogsDir": str(where.state / "pod-logs"),
        "maxPods": 200,
        "shutdownGracePeriod": "0s",
    }


def _kube_proxy(where: Layout) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(where.pki / "kube-proxy.kubeconfig")},
        "hostnameOverride": layout.NODE_NAME,
        "clusterCIDR": layout.POD_NETWORK,
        "mode": "iptables",
        # Node ports answer on loopback and nowhere else.
        "nodePortAddresses": ["127.0.0.0/8"],
        "iptables": {"localhostNodePorts": True},
        "conntrack": {"maxPerCore": 0},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }


def _containerd(where: Layout, pause_image: str) -> str:
    # TOML basic strings are JSON strings as far as paths go.
    def quoted(value: object) -> str:
        return json.dumps(str(value))

    return f"""\
version = 2
root = {quoted(where.state / "containerd")}
state = {quoted(where.run / "containerd" / "state")}
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = {quoted(where.containerd_socket)}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {quoted(pause_image)}
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {quoted(where.state / "cni" / "bin")}
    conf_dir = {quoted(where.state / "cni" / "net.d")}
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = {quoted(where.config / "runtime-spec.json")}
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."{layout.REGISTRY}"]
    endpoint = ["http://{layout.REGISTRY}"]
"""


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != content:
        path.write_text(content)
