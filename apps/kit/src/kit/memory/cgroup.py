"""How much CPU and memory this container may use: the cgroup's limits, not the host's."""

from __future__ import annotations

import math
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs the cgroup grants (2.5 for two and a half), or None where there is no limit.

    Source: kernel documentation, cgroup v2 ``cpu.max`` and v1 ``cpu.cfs_quota_us``.
    """
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    for folder in (root / "cpu", root / "cpu,cpuacct", root):
        try:
            quota_us = int((folder / "cpu.cfs_quota_us").read_text())
            period_us = int((folder / "cpu.cfs_period_us").read_text())
        except (OSError, ValueError):
            continue
        return quota_us / period_us if quota_us > 0 and period_us > 0 else None
    return None


def usable_cpus(root: Path = ROOT) -> int:
    """Threads worth starting: the quota rounded up, at most the CPUs of our affinity mask."""
    mask = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return mask if quota is None else max(1, min(mask, math.ceil(quota)))


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes past which the cgroup's processes are killed, or None where there is no limit.

    Source: kernel documentation, cgroup v2 ``memory.max`` and v1 ``memory.limit_in_bytes``,
    which says "no limit" by a number near 2^63.
    """
    for file in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):
            continue
        return limit if 0 < limit < 1 << 60 else None
    return None
