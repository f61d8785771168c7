"""What is said of a job under which a worker died."""

from __future__ import annotations

from kit.http.problem import Problem
from kit.memory.cgroup import memory_limit


def died_alone() -> Problem:
    """The problem of a job that ended its worker with no other job beside it."""
    limit = memory_limit()
    memory = f" (its limit is {limit >> 20} MiB)" if limit else ""
    return Problem(
        500,
        "worker-died",
        "the worker ended while it ran this job among others, and again while it ran this job "
        f"alone: the job may need more memory than the worker has{memory} or crash it, as its "
        "last log and the reason of its pod's restart say; send less in one job, or raise the "
        "worker's memory limit",
    )
