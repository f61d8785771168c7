"""What a worker holds: the jobs that run, the one to be run alone, and ends to be written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from proxy.jobs.queue import ALONE
from proxy.worker.job import HeldJob


@dataclass(slots=True)
class End:
    """A job's end, waiting to be written with others in one round trip."""

    job: HeldJob
    state: str
    fields: list[Any]


@dataclass(slots=True)
class Held:
    """Changed by the parts of the worker, from its event loop only."""

    running: dict[str, tuple[HeldJob, asyncio.Task[None]]] = field(default_factory=dict)
    reserved: tuple[bytes, str] | None = None
    """An entry to be run alone, and its job."""
    ends: list[End] = field(default_factory=list)

    def entries(self) -> dict[str, list[bytes]]:
        """The entries of every queue whose leases are to be kept."""
        found: dict[str, list[bytes]] = {}
        for job, _ in self.running.values():
            found.setdefault(job.priority, []).append(job.entry)
        for end in self.ends:
            found.setdefault(end.job.priority, []).append(end.job.entry)
        if self.reserved:
            found.setdefault(ALONE, []).append(self.reserved[0])
        return found

    def identities(self) -> set[str]:
        """The jobs of those entries."""
        found = {*self.running, *(end.job.identity for end in self.ends)}
        if self.reserved:
            found.add(self.reserved[1])
        return found
