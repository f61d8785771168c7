"""The prediction cache: the same question to the same version of a model is answered once.

Two layers: a small one in this process, and Redis for all pods. The key is made of the model,
its version and the canonical input; never of who asks or of a request's id.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal, cast

import redis.asyncio as redis

from kit.problem import Problem
from proxy.metrics import Metrics
from proxy.redis_store import Store
from proxy.settings import CachePolicy

Result = Literal["hit", "miss", "bypass"]
MEMORY_SECONDS = 5.0  # how far a pod's own layer may lag behind Redis


@dataclass(frozen=True, slots=True)
class Made:
    """A fresh answer. ``keep`` is False for one that must not be given to others."""

    data: bytes
    keep: bool = True


def key_of(*parts: bytes) -> str:
    """A cache key: SHA-256 over the parts, each with its length, so that none runs into another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


class Memory:
    """Least recently used entries up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._size = 0

    def get(self, key: str, now: float) -> bytes | None:
        """The entry, unless it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: str, data: bytes, until: float) -> None:
        """Keep an entry; the least recently used ones make room."""
        self._drop(key)
        if len(data) > self._most:
            return
        self._entries[key] = (until, data)
        self._size += len(data)
        while self._size > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry[1])


class PredictionCache:
    """Look up, make once, keep."""

    def __init__(self, store: Store, metrics: Metrics, memory_bytes: int) -> None:
        self._store = store
        self._metrics = metrics
        self._memory = Memory(memory_bytes)
        self._flights: dict[str, asyncio.Task[Made]] = {}

    def peek(self, key: str) -> bytes | None:
        """An entry of this process's own layer: the way without a wait."""
        return self._memory.get(key, monotonic())

    def remember(self, key: str, data: bytes) -> None:
        """Keep an entry in this process's own layer alone."""
        self._memory.put(key, data, monotonic() + MEMORY_SECONDS)

    def count_hit(self, model: str) -> None:
        """An entry found by ``peek`` was the answer."""
        self._metrics.cache.add(model, "hit")

    async def answer(
        self,
        model: str,
        policy: CachePolicy,
        key: str,
        make: Callable[[], Awaitable[Made]],
        *,
        cache_control: bytes = b"",
    ) -> tuple[bytes, Result]:
        """The kept answer, or the one ``make`` gives; several asking at once make it once.

        ``no-cache`` and ``no-store`` in ``cache_control`` ask the model itself; ``no-store``
        also keeps the answer from others.
        """
        control = cache_control.lower()
        if b"no-store" in control:
            self._metrics.cache.add(model, "bypass")
            return (await make()).data, "bypass"
        if b"no-cache" in control:
            made = await make()
            await self._keep(policy, key, made)
            self._metrics.cache.add(model, "bypass")
            return made.data, "bypass"
        found = self._memory.get(key, monotonic())
        if found is None:
            # While Redis was asked, a flight may have landed: look again before flying.
            found = await self._read(key, policy) or self._memory.get(key, monotonic())
        if found is not None:
            self._metrics.cache.add(model, "hit")
            return found, "hit"
        self._metrics.cache.add(model, "miss")
        return await self._make_once(policy, key, make), "miss"

    async def _make_once(
        self, policy: CachePolicy, key: str, make: Callable[[], Awaitable[Made]]
    ) -> bytes:
        flight = self._flights.get(key)
        leading = flight is None
        if flight is None:

            async def fly() -> Made:
                made = await make()
                await self._keep(policy, key, made)
                return made

            flight = asyncio.get_running_loop().create_task(fly())
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        try:
            return (await asyncio.shield(flight)).data
        except Problem as problem:
            if leading or problem.status != 504:
                raise
            # The one who led had less time than this one has.
            return (await make()).data

    def _landed(self, key: str, flight: asyncio.Task[Made]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # whoever waits for it has it

    async def _read(self, key: str, policy: CachePolicy) -> bytes | None:
        async def ask(client: redis.Redis) -> bytes | None:
            return cast(bytes | None, await client.get(self._name(key)))

        found = await self._store.aside("cache", ask)
        if found is not None:
            until = monotonic() + min(MEMORY_SECONDS, policy.ttl_seconds)
            self._memory.put(key, found, until)
        return found

    async def _keep(self, policy: CachePolicy, key: str, made: Made) -> None:
        if not made.keep or len(made.data) > policy.max_bytes:
            return
        # Entries made together must not all expire together.
        life = policy.ttl_seconds * (1 + random.uniform(-policy.jitter, policy.jitter))
        self._memory.put(key, made.data, monotonic() + min(MEMORY_SECONDS, life))

        async def ask(client: redis.Redis) -> None:
            await client.set(self._name(key), made.data, px=max(1, round(life * 1000)))

        await self._store.aside("cache", ask)

    def _name(self, key: str) -> str:
        return f"{self._store.prefix}:cache:{key}"
