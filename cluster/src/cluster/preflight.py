"""What the machine must have before anything is done, each failure with its fix."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import layout
from cluster.errors import ClusterError
from cluster.layout import Layout

GIB = 1 << 30
# Programs the cluster takes from Debian, and the package each comes in.
DEBIAN_PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "buildah": "buildah",
    "docker-registry": "docker-registry",
    "redis-server": "redis-server",
    "debootstrap": "debootstrap",
    "git": "git",
    "tar": "tar",
}
# What tests without a cluster drive.
TEST_PACKAGES = {
    **{
        name: DEBIAN_PACKAGES[name]
        for name in ("etcd", "buildah", "docker-registry", "redis-server", "debootstrap")
    },
    "chromium": "chromium",
    "promtool": "prometheus",
    "ssh-keygen": "openssh-client",
}
FILES_OF_PACKAGES = {Path("/usr/lib/cni/bridge"): "containernetworking-plugins"}
PORTS = {
    "registry": ("127.0.0.1", layout.REGISTRY_PORT),
    "etcd": ("127.0.0.1", layout.ETCD_PORT),
    "kube-controller-manager": ("127.0.0.1", 10257),
    "kube-scheduler": ("127.0.0.1", 10259),
    "kubelet": ("127.0.0.1", 10248),
    "kube-proxy": ("127.0.0.1", 10256),
}
# The programs, images and containers; and with them Go's own caches while they are built.
DISK_TO_RUN = 6 * GIB
DISK_TO_BUILD = 25 * GIB
MEMORY = 4 * GIB


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of the machine; bytes for ``disk_free`` and ``memory_available``."""

    system: str
    root: bool
    missing_packages: tuple[str, ...]
    disk_free: int
    memory_available: int
    built: bool
    busy_ports: Mapping[str, int]
    missing_cgroups: tuple[str, ...]
    overlay: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A thing that is not as it must be, and how to mend it."""

    cause: str
    fix: str


def failures(facts: Facts) -> list[Failure]:
    """Everything that stands in the way, most fundamental first."""
    if facts.system != "Linux":
        return [
            Failure(
                f"the one-machine cluster needs Linux, and this is {facts.system}",
                "use CLUSTER=kind, or CLUSTER=current with a Kubernetes of your own",
            )
        ]
    found: list[Failure] = []
    if not facts.root:
        found.append(
            Failure(
                "the one-machine cluster needs root: it starts containers and sets up a bridge",
                "run it with sudo -E, or use CLUSTER=kind",
            )
        )
    if facts.missing_packages:
        names = " ".join(facts.missing_packages)
        found.append(
            Failure(
                f"Debian packages are missing: {names}",
                f"sudo apt-get install --no-install-recommends {names}",
            )
        )
    needed = DISK_TO_RUN if facts.built else DISK_TO_BUILD
    if facts.disk_free < needed:
        found.append(
            Failure(
                f"{facts.disk_free / GIB:.0f} GiB of disk are free and "
                f"{needed / GIB:.0f} GiB are needed",
                "free some, or point SLIPWAY_CACHE at a larger disk",
            )
        )
    if facts.memory_available < MEMORY:
        found.append(
            Failure(
                f"{facts.memory_available / GIB:.1f} GiB of memory are available and "
                f"{MEMORY / GIB:.0f} GiB are needed",
                "end other programs, or use a larger machine",
            )
        )
    for name, port in facts.busy_ports.items():
        found.append(
            Failure(
                f"port {port} of 127.0.0.1, which {name} needs, is in use",
                f"see who has it with `ss -ltnp sport = :{port}` and stop it",
            )
        )
    if facts.missing_cgroups:
        found.append(
            Failure(
                f"control groups are missing: {', '.join(facts.missing_cgroups)}",
                "mount them, for example by installing and starting cgroupfs-mount",
            )
        )
    if not facts.overlay:
        found.append(Failure("the kernel has no overlay file system", "run `modprobe overlay`"))
    return found


def gather(where: Layout, alive: Iterable[str], *, built: bool) -> Facts:
    """Look at the machine; ``alive`` are parts of ours whose ports are rightly in use."""
    existing = where.cache
    while not existing.exists():
        existing = existing.parent
    running = set(alive)
    return Facts(
        system=platform.system(),
        root=os.geteuid() == 0,
        missing_packages=missing_packages(),
        disk_free=shutil.disk_usage(existing).free,
        memory_available=_memory_available(),
        built=built,
        busy_ports={
            name: port
            for name, (address, port) in PORTS.items()
            if name not in running and _listens(address, port)
        },
        missing_cgroups=_missing_cgroups(),
        overlay=_has_overlay(),
    )


def missing_packages() -> tuple[str, ...]:
    """Debian packages whose programs are not there."""
    of_files = {package for path, package in FILES_OF_PACKAGES.items() if not path.exists()}
    return tuple(sorted(missing(DEBIAN_PACKAGES) | of_files))


def missing_packages_for_tests() -> tuple[str, ...]:
    """Debian packages whose programs the tests without a cluster drive and do not find."""
    return tuple(sorted(missing(TEST_PACKAGES)))


def missing(packages: Mapping[str, str]) -> set[str]:
    """Of packages by the programs they bring: those whose program is not found."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return {
        package
        for program, package in packages.items()
        if shutil.which(program, path=search) is None
    }


def install_packages(packages: Iterable[str], log: Path) -> None:
    """Install Debian packages; services they bring are not started."""
    names = sorted(packages)
    log.parent.mkdir(parents=True, exist_ok=True)
    # A package's service would take the ports and the memory the cluster's own parts need.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        with log.open("wb") as output:
            for command in (
                ["apt-get", "update"],
                ["apt-get", "install", "-y", "--no-install-recommends", *names],
            ):
                done = subprocess.run(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    check=False,
                )
                if done.returncode != 0:
                    raise ClusterError(
                        f"`{' '.join(command)}` failed", fix="see the log below", log=log
                    )
    finally:
        if ours:
            policy.unlink()


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


def _missing_cgroups() -> tuple[str, ...]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").is_file():
        present = set((root / "cgroup.controllers").read_text().split())
    else:
        present = {path.name for path in root.iterdir()} if root.is_dir() else set()
    return tuple(name for name in ("cpu", "memory", "pids") if name not in present)


def _has_overlay() -> bool:
    def known() -> bool:
        return "\toverlay\n" in Path("/proc/filesystems").read_text()

    if not known() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "overlay"], capture_output=True, check=False)
    return known()
