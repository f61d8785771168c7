"""Jobs claimed from the queues, as many as the worker has room for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import redis.asyncio as redis

from kit.telemetry import logs
from proxy.jobs import scripts
from proxy.jobs.queue import ALONE, GROUP, PRIORITIES, Keys, ensure_groups
from proxy.services import Services
from proxy.store.redis import script
from proxy.worker.held import Held
from proxy.worker.job import HeldJob, held_job

log = logs.get("proxy.worker")

IDLE_SECONDS = 0.2


class Claims:
    """Takes jobs and starts them; each runs in a task."""

    def __init__(
        self,
        services: Services,
        name: str,
        keys: Keys,
        held: Held,
        run: Callable[[HeldJob], Coroutine[Any, Any, None]],
    ) -> None:
        self._store = services.store
        self._metrics = services.metrics
        self._policy = services.settings.jobs
        self._concurrency = services.settings.worker_concurrency
        self._name = name
        self._keys = keys
        self._held = held
        self._run = run
        self._room = asyncio.Event()

    def stop_waiting(self) -> None:
        """End the wait for room."""
        self._room.set()

    async def take(self) -> None:
        """Take as many jobs as there is room for; wait for room, or shortly for jobs."""
        room = self._concurrency - len(self._held.running)
        runs_alone = any(job.priority == ALONE for job, _ in self._held.running.values())
        if room <= 0 or runs_alone or (self._held.reserved and self._held.running):
            self._room.clear()
            await self._room.wait()
            return
        if self._held.reserved:
            entry, identity = self._held.reserved
            await self._take_given([(entry, {b"id": identity.encode()})], ALONE)
            self._held.reserved = None
            return
        streams = [self._keys.stream(priority) for priority in (ALONE, *PRIORITIES)]
        try:
            jobs = await script(
                self._store.need(),
                scripts.TAKE,
                (self._keys.callbacks, self._keys.dead, *streams),
                *self._taking(),
                room,
            )
            if jobs:
                self._begin(jobs, PRIORITIES)
                return
            found: Any = await self._store.need().xreadgroup(
                GROUP,
                self._name,
                dict.fromkeys(streams, ">"),
                count=1,
                block=round(IDLE_SECONDS * 1000),
            )
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await ensure_groups(self._store.need(), self._keys)  # Redis was emptied or replaced
            return
        for name, entries in found or ():
            queue = name.decode().rsplit(":", 1)[-1]
            if queue == ALONE:
                self._held.reserved = (entries[0][0], entries[0][1][b"id"].decode())
            else:
                await self._take_given(entries, queue)

    def _taking(self) -> tuple[Any, ...]:
        """The arguments of the scripts that take jobs."""
        return (
            GROUP,
            self._name,
            f"{time.time():.6f}",
            self._policy.max_attempts,
            round(self._policy.result_ttl_seconds),
            self._keys.jobs,
            self._keys.events,
        )

    async def _take_given(self, entries: Sequence[tuple[bytes, Any]], priority: str) -> None:
        """Take the jobs of entries that Redis already counts as this worker's."""
        if not entries:
            return
        jobs = await script(
            self._store.need(),
            scripts.TAKE_GIVEN,
            (self._keys.callbacks, self._keys.dead, self._keys.stream(priority)),
            *self._taking(),
            *(part for entry, fields in entries for part in (entry, fields[b"id"])),
        )
        self._begin(jobs, (priority,))

    def _begin(self, jobs: Sequence[Any], priorities: Sequence[str]) -> None:
        for position, entry, name, fields in jobs:
            if not position:
                self._held.reserved = (entry, name.decode())
                continue
            if len(fields) == 1:
                if fields[0]:
                    self._metrics.jobs.add("", fields[0].decode())
                continue
            job = held_job(name.decode(), priorities[position - 1], entry, fields)
            task = asyncio.create_task(self._run(job))
            self._held.running[job.identity] = (job, task)
            task.add_done_callback(partial(self._done, job.identity))

    def _done(self, identity: str, task: asyncio.Task[None]) -> None:
        self._held.running.pop(identity, None)
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Redis did not take the end; the lease runs out and the job is done again.
            log.warning("job left to its lease", job=identity, reason=repr(error))
