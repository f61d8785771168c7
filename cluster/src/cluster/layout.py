"""Where the one-machine cluster keeps its things, and which addresses it uses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# RFC 2544 reserves 198.18.0.0/15 for tests inside one network: no route leads there.
POD_NETWORK = "198.18.0.0/16"
SERVICE_NETWORK = "198.19.0.0/16"
NODE_ADDRESS = "198.18.0.1"
API_SERVICE_ADDRESS = "198.19.0.1"
DNS_SERVICE_ADDRESS = "198.19.0.10"
BRIDGE = "slipway0"
NODE_NAME = "slipway"
CGROUP = "slipway"

API_PORT = 6443
ETCD_PORT = 12379
ETCD_PEER_PORT = 12380
REGISTRY_PORT = 5000
GIT_PORT = 9418
GATEWAY_PORT = 8080
S3_PORT = 7070

REGISTRY = f"127.0.0.1:{REGISTRY_PORT}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of one cluster.

    ``cache`` survives everything (programs, images, what the cluster knows); ``run`` holds
    sockets, process ids and mounts, and is empty while the cluster is down.
    """

    cache: Path
    run: Path

    @property
    def builds(self) -> Path:
        """One folder per set of built programs, named by the key of its inputs."""
        return self.cache / "builds"

    @property
    def bin(self) -> Path:
        """Links to the programs in use, to be put on PATH."""
        return self.cache / "bin"

    @property
    def images(self) -> Path:
        """Root file systems and build contexts of the cluster's own images."""
        return self.cache / "images"

    @property
    def state(self) -> Path:
        """What this cluster knows: certificates, etcd, containers, objects, Git."""
        return self.cache / "cluster"

    @property
    def pki(self) -> Path:
        """Certificates, keys and the kubeconfigs made of them."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """Configuration files written for the programs."""
        return self.state / "config"

    @property
    def logs(self) -> Path:
        """One log per part."""
        return self.state / "logs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "kubeconfig"

    @property
    def manifest_repo(self) -> Path:
        """The bare Git repo that Argo CD follows."""
        return self.state / "git" / "slipway.git"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd answers."""
        return self.run / "containerd" / "containerd.sock"

    def program(self, name: str) -> str:
        """The path of a built program."""
        return str(self.bin / name)


def default_layout() -> Layout:
    """The layout of this user on this machine; ``SLIPWAY_CACHE`` moves the cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = os.environ.get("SLIPWAY_CACHE") or f"{base}/slipway"
    return Layout(cache=Path(cache), run=Path("/run/slipway"))
