"""Queue depth and age as metrics, read from Redis every few seconds rather than at a scrape."""

from __future__ import annotations

import asyncio

from redis.exceptions import RedisError

from kit.lifecycle.health import Health
from proxy.jobs.queue import Jobs
from proxy.store.redis import unreachable
from proxy.telemetry.metrics import Metrics

EVERY_SECONDS = 2.0


class QueueWatch:
    """Keeps the latest figures; without Redis there are none, which is better than old ones."""

    def __init__(self, jobs: Jobs, metrics: Metrics, health: Health, redis_url: str) -> None:
        self._jobs = jobs
        self._health = health
        self._redis_url = redis_url
        self._depth: list[tuple[tuple[str, ...], float]] = []
        self._oldest: list[tuple[tuple[str, ...], float]] = []
        metrics.gauge(
            "slipway_jobs_queue_depth",
            "Jobs waiting or under way, by queue (high, normal, low, delayed, dead).",
            ("queue",),
            lambda: self._depth,
        )
        metrics.gauge(
            "slipway_jobs_queue_age_seconds",
            "How long the oldest job of each queue has been there.",
            ("queue",),
            lambda: self._oldest,
        )
        self._stopped = False
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while not self._stopped:  # Redis' client may keep a cancellation to itself
            await self._look()
            await asyncio.sleep(EVERY_SECONDS)

    async def _look(self) -> None:
        try:
            self._depth = await self._jobs.depth()
            self._oldest = await self._jobs.oldest()
            self._health.do_with("redis")
        except (RedisError, OSError) as error:
            self._depth, self._oldest = [], []
            if "redis" not in self._health.reasons:  # a worker waits for it, and says so itself
                self._health.do_without("redis", *unreachable(self._redis_url, error))

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        self._task.cancel()
