"""Takes the cluster down, or away what a killed one left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from cluster import layout, network
from cluster.layout import Layout
from cluster.process import Supervisor, stop_processes

CGROUP_ROOT = Path("/sys/fs/cgroup")
ISTIO_CNI_RUN = Path("/run/istio-cni")
# The kubelet first, so that it does not start again what goes; etcd after its last client.
STOP_ORDER = (
    "kubelet",
    "kube-proxy",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-apiserver",
    "git",
    "containerd",
    "etcd",
    "registry",
)


def down(where: Layout, supervisor: Supervisor) -> None:
    """Leave no process, mount, network namespace, bridge, firewall rule or cgroup behind."""
    for name in (*STOP_ORDER, *supervisor.names()):
        if name == "containerd":
            stop_containers(where)
        supervisor.stop(name)
    clean(where)
    network.remove(where.state)


def clean(where: Layout) -> None:
    """Remove what containers leave when containerd is not there to remove it."""
    stop_containers(where)
    unmount(where.run)
    unmount(where.state)
    remove_cgroups()
    for name in ("containerd", "cni"):
        shutil.rmtree(where.run / name, ignore_errors=True)
    # Its socket's folder is one of the node's own.
    shutil.rmtree(ISTIO_CNI_RUN, ignore_errors=True)
    # Empty unless a daemon still runs.
    for folder in (where.run / "processes", where.run):
        with contextlib.suppress(OSError):
            folder.rmdir()


def stop_containers(where: Layout) -> None:
    """End every process of a pod, then the shims that watched over them."""
    pods = cgroup_processes()
    # Asked to stop, istio-cni's agent would take its plugin out of the CNI's chain, and the pods
    # of the next boot would start without redirection.
    stop_processes([pid for pid in pods if _command(pid) == "install-cni"], grace=0)
    stop_processes(pods, grace=5.0)
    stop_processes(shims(where.containerd_socket), grace=5.0)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def cgroup_processes() -> set[int]:
    """Processes in the cluster's control groups, in whichever hierarchy."""
    found: set[int] = set()
    for root in cgroup_roots():
        for procs in root.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in procs.read_text().split())
    return found - {os.getpid(), 0}


def cgroup_roots() -> list[Path]:
    """The cluster's control group in each hierarchy of the machine."""
    return [
        path
        for path in (CGROUP_ROOT / layout.CGROUP, *CGROUP_ROOT.glob(f"*/{layout.CGROUP}"))
        if path.is_dir()
    ]


def make_cgroups() -> None:
    """Create the cluster's control group, which the kubelet wants to find, in each hierarchy."""
    if (CGROUP_ROOT / "cgroup.controllers").is_file():
        group = CGROUP_ROOT / layout.CGROUP
        group.mkdir(exist_ok=True)
        controllers = (CGROUP_ROOT / "cgroup.controllers").read_text().split()
        enable = " ".join(f"+{name}" for name in controllers)
        with contextlib.suppress(OSError):
            (CGROUP_ROOT / "cgroup.subtree_control").write_text(enable)
        (group / "cgroup.subtree_control").write_text(enable)
        return
    for hierarchy in CGROUP_ROOT.iterdir():
        if not (hierarchy / "cgroup.procs").is_file():
            continue
        group = hierarchy / layout.CGROUP
        group.mkdir(exist_ok=True)
        # A new cpuset group has no processors, and no process may enter it.
        for name in ("cpuset.cpus", "cpuset.mems"):
            with contextlib.suppress(OSError):
                if not (group / name).read_text().strip():
                    (group / name).write_text((hierarchy / name).read_text())


def remove_cgroups() -> None:
    """Remove the cluster's control groups, deepest first."""
    for root in cgroup_roots():
        folders = [path for path in root.rglob("*") if path.is_dir()]
        for folder in sorted([root, *folders], key=lambda path: -len(path.parts)):
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    # Its last process was reaped a moment ago, and the kernel is not done yet.
                    time.sleep(0.02)
                else:
                    break


def shims(socket: Path) -> set[int]:
    """Shims started by the containerd that answers at ``socket``."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"containerd-shim" in arguments[0] and str(socket).encode() in arguments:
                found.add(int(entry.name))
    return found


def mounts_under(folder: Path, mountinfo: str) -> list[str]:
    """Mount points below a folder, deepest and latest first; source: proc(5), mountinfo."""
    points = []
    for line in mountinfo.splitlines():
        # Blanks and backslashes in a path are written as octal escapes.
        point = line.split()[4].encode().decode("unicode_escape")
        if point == str(folder) or point.startswith(f"{folder}/"):
            points.append(point)
    return list(reversed(points))


def unmount(folder: Path) -> None:
    """Unmount everything below ``folder``; what is busy is detached."""
    while points := mounts_under(folder, Path("/proc/self/mountinfo").read_text()):
        before = len(points)
        for point in points:
            done = subprocess.run(["umount", point], capture_output=True, check=False)
            if done.returncode != 0:
                subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
        left = mounts_under(folder, Path("/proc/self/mountinfo").read_text())
        if len(left) >= before:
            raise OSError(f"cannot unmount {left[0]}")
