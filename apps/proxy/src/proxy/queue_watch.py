"""Queue depth and age as metrics, read from Redis every few seconds rather than at a scrape."""

from __future__ import annotations

import asyncio

from proxy.services import Services

EVERY_SECONDS = 2.0


class QueueWatch:
    """Keeps the latest figures; without Redis there are none, which is better than old ones."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._depth: list[tuple[tuple[str, ...], float]] = []
        self._oldest: list[tuple[tuple[str, ...], float]] = []
        services.metrics.gauge(
            "slipway_jobs_queue_depth",
            "Jobs waiting or under way, by queue (high, normal, low, delayed, dead).",
            ("queue",),
            lambda: self._depth,
        )
        services.metrics.gauge(
            "slipway_jobs_queue_age_seconds",
            "How long the oldest job of each queue has been there.",
            ("queue",),
            lambda: self._oldest,
        )
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self._depth = await self._services.jobs.depth()
            self._oldest = await self._services.jobs.oldest()
            await asyncio.sleep(EVERY_SECONDS)

    def stop(self) -> None:
        """Look no more."""
        self._task.cancel()
