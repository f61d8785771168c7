"""The leases of what this worker holds, and the jobs of workers that kept theirs no longer."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import orjson
from redis.exceptions import RedisError

from kit.telemetry import logs
from proxy.jobs import scripts
from proxy.jobs.lost import died_alone
from proxy.jobs.queue import ALONE, GROUP, QUEUES, Keys, pause
from proxy.services import Services
from proxy.store.redis import script
from proxy.worker.held import Held

log = logs.get("proxy.worker")

LOST = {b"alone": "tried-alone", b"failed": "worker-died"}
"""Outcomes of a job under which a worker died, as the metric names them."""
# What one script writes: it keeps everybody else from Redis for a few milliseconds.
MOST_RECLAIMED = 128


class Leases:
    """Renews this worker's leases and reclaims those that ran out."""

    def __init__(self, services: Services, name: str, keys: Keys, held: Held) -> None:
        self._store = services.store
        self._metrics = services.metrics
        self._models = services.models
        self._policy = services.settings.jobs
        self._name = name
        self._keys = keys
        self._held = held

    async def keep(self, over: asyncio.Event) -> None:
        """Renew the leases until the last job is over, also while the worker stops.

        An event says so: Redis' client keeps a cancellation to itself that comes while a
        connection's time runs out, and the worker waited for this for ever.
        """
        while not over.is_set():
            try:
                await self.renew()
            except (RedisError, OSError) as error:
                log.warning("redis does not answer", use="beat", reason=repr(error))
                await pause(min(1.0, self._policy.lease_seconds / 3), over)
                continue
            await pause(self._policy.lease_seconds / 3 * random.uniform(0.9, 1.1), over)

    async def renew(self) -> None:
        """Keep the leases of what this worker holds, then say that it runs and what it knows."""
        for priority, entries in self._held.entries().items():
            await self._store.need().xclaim(
                self._keys.stream(priority),
                GROUP,
                self._name,
                min_idle_time=0,
                message_ids=entries,  # type: ignore[arg-type]
                justid=True,
            )
        # What says that this worker runs ends before the leases do: whoever finds one run out
        # then knows whether its worker has died.
        lease = self._policy.lease_seconds * 1000
        names = sorted(self._models.backends)
        async with self._store.need().pipeline(transaction=True) as pipe:
            pipe.set(self._keys.workers + self._name, "", px=round(0.8 * lease))
            for name in names:
                pipe.set(self._keys.worker_model(name), "", px=round(2 * lease))
            pipe.set(self._keys.worker_models, orjson.dumps(names), px=round(0.8 * lease))
            await pipe.execute()

    async def reclaim(self) -> None:
        """Queue the jobs again of workers that have not kept their leases."""
        for queue in QUEUES:
            stream = self._keys.stream(queue)
            found: Any = await self._store.need().xautoclaim(
                stream,
                GROUP,
                self._name,
                min_idle_time=round(self._policy.lease_seconds * 1000),
                count=MOST_RECLAIMED,
            )
            held = self._held.identities()
            lost = [
                (entry, fields[b"id"])
                for entry, fields in found[1]
                if fields and fields[b"id"].decode() not in held
            ]
            if not lost:
                continue
            problem = died_alone()
            outcomes = await script(
                self._store.need(),
                scripts.REQUEUE,
                (self._keys.callbacks, self._keys.dead, stream, self._keys.stream(ALONE)),
                GROUP,
                f"{time.time():.6f}",
                round(self._policy.result_ttl_seconds),
                self._keys.jobs,
                self._keys.events,
                self._keys.workers,
                self._policy.max_deaths_alone,
                problem.body(),
                problem.detail,
                *(part for pair in lost for part in pair),
            )
            for (_, identity), outcome in zip(lost, outcomes, strict=True):
                if outcome in (b"alone", b"failed"):
                    self._metrics.jobs.add("", LOST[outcome])
                    log.warning("worker died", job=identity.decode(), outcome=outcome.decode())

    async def forget_dead_workers(self) -> None:
        """Drop consumers that hold nothing and were not heard of for an hour."""
        for priority in QUEUES:
            stream = self._keys.stream(priority)
            for consumer in await self._store.need().xinfo_consumers(stream, GROUP):
                if consumer["pending"] == 0 and consumer["idle"] > 3_600_000:
                    await self._store.need().xgroup_delconsumer(stream, GROUP, consumer["name"])

    async def give_up_reserved(self) -> None:
        """Let another worker claim the job that waits to be run alone, without its lease."""
        if self._held.reserved is None:
            return
        entry, identity = self._held.reserved
        self._held.reserved = None
        try:
            await self._store.need().xclaim(
                self._keys.stream(ALONE),
                GROUP,
                self._name,
                min_idle_time=0,
                message_ids=[entry],
                idle=round(self._policy.lease_seconds * 1000),
                justid=True,
            )
        except (RedisError, OSError) as error:
            log.warning("job not handed back", job=identity, reason=repr(error))
