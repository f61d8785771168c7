"""kit.memory.cgroup: quota and limit, wherever the kernel says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kit.memory.cgroup import cpu_quota, memory_limit, usable_cpus


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "30000", "cpu,cpuacct/cpu.cfs_period_us": "10000"}, 3.0),
    ],
)
def test_the_quota_is_read(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(lay(tmp_path, files)) == quota


def test_threads_follow_the_quota_and_never_exceed_the_mask(tmp_path: Path) -> None:
    mask = len(os.sched_getaffinity(0))
    assert usable_cpus(lay(tmp_path, {"cpu.max": "20000 100000"})) == 1
    assert usable_cpus(lay(tmp_path, {"cpu.max": "100000000 100000"})) == mask
    assert usable_cpus(lay(tmp_path, {"cpu.max": "max 100000"})) == mask


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "402653184\n"}, 402653184),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "402653184\n"}, 402653184),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_the_memory_limit_is_the_cgroups(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    assert memory_limit(lay(tmp_path, files)) == limit
