"""Mounts are found below a folder and nowhere else, deepest first."""

from __future__ import annotations

from pathlib import Path

from cluster.teardown import mounts_under

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:30 / /run/slipway/containerd/state/rootfs rw - overlay overlay rw
41 22 0:31 / /run/slipway-other/x rw - tmpfs tmpfs rw
42 40 0:32 / /run/slipway/containerd/state/rootfs/proc rw - proc proc rw
43 22 0:33 / /run/slipway/with\\040blank rw - tmpfs tmpfs rw
"""


def test_only_mounts_below_the_folder_latest_first() -> None:
    assert mounts_under(Path("/run/slipway"), MOUNTINFO) == [
        "/run/slipway/with blank",
        "/run/slipway/containerd/state/rootfs/proc",
        "/run/slipway/containerd/state/rootfs",
    ]


def test_no_mount_no_entry() -> None:
    assert mounts_under(Path("/nowhere"), MOUNTINFO) == []
