"""Each thing a machine lacks is one sentence with its fix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.preflight import GIB, Facts, failures

GOOD = Facts(
    system="Linux",
    root=True,
    missing_packages=(),
    disk_free=100 * GIB,
    memory_available=16 * GIB,
    built=False,
    busy_ports={},
    missing_cgroups=(),
    overlay=True,
)


def test_a_good_machine_has_no_failure() -> None:
    assert failures(GOOD) == []


@pytest.mark.parametrize(
    ("changed", "cause", "fix"),
    [
        ({"system": "Darwin"}, "needs Linux, and this is Darwin", "CLUSTER=kind"),
        ({"root": False}, "needs root", "sudo"),
        (
            {"missing_packages": ("etcd-server", "runc")},
            "missing: etcd-server runc",
            "apt-get install --no-install-recommends etcd-server runc",
        ),
        ({"disk_free": 20 * GIB}, "20 GiB of disk are free and 25 GiB are needed", "SLIPWAY_CACHE"),
        ({"disk_free": 5 * GIB, "built": True}, "6 GiB are needed", "SLIPWAY_CACHE"),
        ({"memory_available": 2 * GIB}, "2.0 GiB of memory are available", "end other programs"),
        ({"busy_ports": {"registry": 5000}}, "port 5000", "ss -ltnp"),
        ({"missing_cgroups": ("cpu",)}, "control groups are missing: cpu", "mount"),
        ({"overlay": False}, "overlay", "modprobe overlay"),
    ],
)
def test_each_failure_names_the_thing_and_the_fix(
    changed: dict[str, object], cause: str, fix: str
) -> None:
    found = failures(replace(GOOD, **changed))  # type: ignore[arg-type]
    assert len(found) == 1
    assert cause in found[0].cause
    assert fix in found[0].fix


def test_less_disk_is_enough_once_everything_is_built() -> None:
    assert failures(replace(GOOD, disk_free=20 * GIB, built=True)) == []


def test_several_failures_are_told_together() -> None:
    found = failures(replace(GOOD, root=False, overlay=False, busy_ports={"etcd": 12379}))
    assert len(found) == 3
