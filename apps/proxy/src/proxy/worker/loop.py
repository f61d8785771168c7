"""The job worker: takes jobs from the streams, predicts, writes the ends.

At least once: a job whose worker died is queued again after its lease, to be run alone. Its
result is written once: the attempt's number is the fence, and whoever comes late finds it changed.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from kit.telemetry import logs
from proxy.jobs import scripts
from proxy.jobs.queue import GROUP, QUEUES, Keys, ensure_groups, pause
from proxy.services import Services
from proxy.store.redis import script, unreachable
from proxy.worker.callbacks import Callbacks
from proxy.worker.claim import Claims
from proxy.worker.finish import Ends
from proxy.worker.held import Held
from proxy.worker.leases import Leases
from proxy.worker.run import Attempts

log = logs.get("proxy.worker")


class Worker:
    """Runs until ``stop``, then finishes or hands back what it holds."""

    def __init__(self, services: Services, name: str) -> None:
        self.services = services
        self.settings = services.settings
        self.policy = services.settings.jobs
        self.name = name
        self.keys = Keys(self.settings.redis_prefix)
        self.stopping = asyncio.Event()
        self._held = Held()
        self._ends = Ends(services, self.keys, self._held)
        self._leases = Leases(services, name, self.keys, self._held)
        self._callbacks = Callbacks(services, self.keys)
        attempts = Attempts(services, self.keys, self._ends)
        self._claims = Claims(services, name, self.keys, self._held, attempts.run)

    def stop(self) -> None:
        """Take no more jobs; ``run`` then ends within ``drain_seconds``."""
        self.stopping.set()
        self._claims.stop_waiting()

    @property
    def client(self) -> redis.Redis:
        """The patient Redis client."""
        return self.services.store.need()

    async def run(self) -> None:
        """Take and run jobs until asked to stop."""
        while not self.stopping.is_set():
            try:
                await ensure_groups(self.client, self.keys)
                await self._leases.renew()
                self.services.health.ready("redis")
                break
            except (RedisError, OSError) as error:
                self._wait_for_redis(error)
                await pause(1.0, self.stopping)
        over = asyncio.Event()
        writer = asyncio.create_task(self._ends.write())
        beating = asyncio.create_task(self._leases.keep(over))
        others = [
            asyncio.create_task(self._again_and_again(work, seconds))
            for work, seconds in (
                (self._promote, 0.2),
                (self._callbacks.begin_due, 0.5),
                (self._leases.reclaim, self.policy.lease_seconds / 2),
                (self._drop_cancelled, 0.5),
                (self._leases.forget_dead_workers, 60.0),
            )
        ]
        try:
            await self._again_and_again(self._claims.take, 0.0)
        finally:
            others += self._callbacks.under_way  # those that are cut are due again
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._hand_back()
            await self._ends.written()
            over.set()
            writer.cancel()
            await asyncio.gather(writer, beating, return_exceptions=True)
            await self._callbacks.close()

    def _wait_for_redis(self, error: Exception) -> None:
        """Not ready: Redis' address without its password, what it said, and the fix."""
        self.services.health.wait_for("redis", *unreachable(self.settings.redis_url, error))

    async def _again_and_again(self, work: Any, seconds: float) -> None:
        while not self.stopping.is_set():
            try:
                await work()
                self.services.health.ready("redis")
            except (RedisError, OSError) as error:
                self._wait_for_redis(error)
                await pause(1.0, self.stopping)
            except Exception as error:  # what failed once must not stop for good
                log.error("work failed, to be done again", use=work.__name__, exc_info=error)
                await pause(1.0, self.stopping)
            if seconds:
                await pause(seconds * random.uniform(0.9, 1.1), self.stopping)

    async def _promote(self) -> None:
        await script(
            self.client,
            scripts.PROMOTE,
            (self.keys.delayed, *(self.keys.stream(priority) for priority in QUEUES)),
            f"{time.time():.6f}",
            1000,
        )

    async def _drop_cancelled(self) -> None:
        """Stop running what its caller has cancelled."""
        held = list(self._held.running.items())
        if not held:
            return
        async with self.client.pipeline(transaction=False) as pipe:
            for identity, _ in held:
                pipe.hmget(self.keys.job(identity), "state", "attempts")
            states = await pipe.execute()
        for (identity, (job, task)), (state, attempts) in zip(held, states, strict=True):
            if state == b"running" and attempts == str(job.attempt).encode():
                continue
            task.cancel()
            await self.client.xack(self.keys.stream(job.priority), GROUP, job.entry)
            await self.client.xdel(self.keys.stream(job.priority), job.entry)
            self.services.metrics.jobs.add(job.model, "cancelled")
            log.info("job dropped", job=identity, state=(state or b"gone").decode())

    async def _hand_back(self) -> None:
        """Let jobs under way finish for a while; what does not goes back, its attempt uncounted."""
        tasks = [task for _, task in self._held.running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self.settings.drain_seconds)
        await self._leases.give_up_reserved()
        for identity, (job, task) in list(self._held.running.items()):
            task.cancel()
            try:
                await script(
                    self.client,
                    scripts.RELEASE,
                    (self.keys.job(identity), self.keys.stream(job.priority)),
                    GROUP,
                    job.entry,
                    job.attempt,
                    identity,
                )
            except (RedisError, OSError) as error:
                log.warning("job not handed back", job=identity, reason=repr(error))
