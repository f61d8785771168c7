"""The ends of jobs, written to Redis many at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from kit.telemetry import logs
from proxy.jobs import scripts
from proxy.jobs.queue import GROUP, QUEUES, Keys
from proxy.services import Services
from proxy.store.redis import script
from proxy.worker.held import End, Held
from proxy.worker.job import HeldJob

log = logs.get("proxy.worker")

# What one script writes: it keeps everybody else from Redis for a few milliseconds.
MOST_ENDS = 128
MOST_END_BYTES = 2 * 1024 * 1024


class Ends:
    """Collects ends, and writes those that came together in one round trip."""

    def __init__(self, services: Services, keys: Keys, held: Held) -> None:
        self._store = services.store
        self._metrics = services.metrics
        self._policy = services.settings.jobs
        self._keys = keys
        self._held = held
        self._ended = asyncio.Event()
        self._all_written = asyncio.Event()

    def add(self, job: HeldJob, state: str, fields: list[Any]) -> str:
        """Have an end written; its state."""
        self._metrics.jobs.add(job.model, state)
        self._metrics.job_seconds.observe(time.time() - job.created, job.model)
        self._held.ends.append(End(job, state, fields))
        self._all_written.clear()
        self._ended.set()
        return state

    async def write(self) -> None:
        """Write the ends that came together in one round trip, again until Redis took them."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            self._all_written.clear()
            while self._held.ends:
                batch = _batch(self._held.ends)
                try:
                    await script(
                        self._store.need(),
                        scripts.FINISH,
                        (
                            self._keys.callbacks,
                            self._keys.dead,
                            *(self._keys.stream(priority) for priority in QUEUES),
                        ),
                        GROUP,
                        round(self._policy.result_ttl_seconds),
                        f"{time.time():.6f}",
                        self._keys.jobs,
                        self._keys.events,
                        *(part for end in batch for part in _arguments(end)),
                    )
                except (RedisError, OSError) as error:
                    log.warning("redis does not answer", use="finish", reason=repr(error))
                    await asyncio.sleep(0.5)
                    continue
                del self._held.ends[: len(batch)]
            self._all_written.set()

    async def written(self) -> None:
        """Wait until every end is written; none comes any more."""
        self._ended.set()
        await self._all_written.wait()


def _batch(ends: Sequence[End]) -> Sequence[End]:
    """The first ends, as many as one script may write; at least one."""
    size = 0
    for count, end in enumerate(ends[:MOST_ENDS]):
        size += sum(len(field) for field in end.fields if isinstance(field, bytes))
        if count and size > MOST_END_BYTES:
            return ends[:count]
    return ends[:MOST_ENDS]


def _arguments(end: End) -> tuple[Any, ...]:
    """An end as the script that writes it wants it."""
    job = end.job
    return (
        QUEUES.index(job.priority) + 1,
        job.entry,
        job.identity,
        job.attempt,
        end.state,
        len(end.fields),
        *end.fields,
    )
