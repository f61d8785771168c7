"""The prediction cache: the same question to the same version of a model is answered once.

Two layers: a small one in this process, and Redis for all pods. The key is made of the model,
its version and the canonical input; never of who asks or of a request's id. In front of both
lies a memo from a request's very bytes to its key and the answer as it was last sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, Literal, TypeVar

import redis.asyncio as redis

from kit.http.problem import Problem
from proxy.config.backends import CachePolicy
from proxy.http import deadline as deadlines
from proxy.store.redis import Store
from proxy.telemetry.metrics import Metrics

Result = Literal["hit", "miss", "bypass"]
MEMORY_SECONDS = 5.0  # how far a pod's own layer may lag behind Redis
OVERHEAD_BYTES = 512  # what an entry costs beside its bytes: keys, tuples, objects

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as it was sent, for the same bytes again.

    ``key`` and ``source`` are the cache's entry it was made of: it holds only as long as that.
    ``lines`` are ``headers`` as lines, Content-Length and X-Cache among them.
    """

    key: str
    source: bytes
    status: int
    variant: str
    headers: list[tuple[bytes, bytes]]
    lines: bytes
    body: bytes


class Memory(Generic[T]):
    """Least recently used entries up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._entries: OrderedDict[Hashable, tuple[float, T, int]] = OrderedDict()
        self._size = 0

    def get(self, key: Hashable, now: float) -> T | None:
        """The entry, unless it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: Hashable, data: T, until: float, size: int) -> None:
        """Keep an entry of ``size`` bytes; the least recently used ones make room."""
        self._drop(key)
        if size > self._most:
            return
        self._entries[key] = (until, data, size)
        self._size += size
        while self._size > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry[2]


@dataclass(slots=True)
class _Computation:
    """An answer being made, and how many wait for it."""

    task: asyncio.Task[Made]
    waiting: int = 0


class PredictionCache:
    """Look up, make once, keep."""

    def __init__(self, store: Store, metrics: Metrics, memory_bytes: int) -> None:
        self._store = store
        self._metrics = metrics
        self._memory: Memory[bytes] = Memory(memory_bytes // 2)
        self._memo: Memory[Sent] = Memory(memory_bytes - memory_bytes // 2)
        self._computations: dict[str, _Computation] = {}

    def recall(self, verbatim: Hashable) -> Sent | None:
        """What was sent for these very bytes, while the entry it was made of still holds.

        That rules out an answer that expired, was replaced by a ``no-cache`` request, or made
        room for others.
        """
        now = monotonic()
        sent = self._memo.get(verbatim, now)
        return sent if sent is not None and self._memory.get(sent.key, now) is sent.source else None

    def remember(self, verbatim: Hashable, sent: Sent, request_bytes: int) -> None:
        """Keep what was sent for a request of so many bytes."""
        size = request_bytes + len(sent.lines) + len(sent.body) + OVERHEAD_BYTES
        self._memo.put(verbatim, sent, monotonic() + MEMORY_SECONDS, size)

    def count(self, model: str, result: Result) -> None:
        """How a request was answered, counted."""
        self._metrics.cache.add(model, result)

    async def answer(
        self,
        model: str,
        policy: CachePolicy,
        key: str,
        make: Callable[[], Awaitable[Made]],
        *,
        deadline: float,
        cache_control: bytes = b"",
    ) -> tuple[bytes, Result]:
        """The kept answer, or the one ``make`` gives; several that ask together make it once.

        ``make`` ends by ``deadline`` (`time.monotonic`); who waits for another's does too, by 504.
        ``no-cache`` and ``no-store`` in ``cache_control`` ask the model itself; ``no-store``
        also keeps the answer from others.
        """
        control = cache_control.lower()
        if b"no-store" in control:
            self.count(model, "bypass")
            return (await make()).data, "bypass"
        if b"no-cache" in control:
            made = await make()
            await self._keep(policy, key, made)
            self.count(model, "bypass")
            return made.data, "bypass"
        found = self._memory.get(key, monotonic())
        if found is None:
            # While Redis was asked, a computation may have ended: look again before beginning one.
            found = await self._read(key, policy) or self._memory.get(key, monotonic())
        if found is not None:
            self.count(model, "hit")
            return found, "hit"
        self.count(model, "miss")
        return await self._make_once(model, policy, key, make, deadline), "miss"

    async def _make_once(
        self,
        model: str,
        policy: CachePolicy,
        key: str,
        make: Callable[[], Awaitable[Made]],
        deadline: float,
    ) -> bytes:
        computation = self._computations.get(key)
        leading = computation is None
        if computation is None:
            computation = self._begin(policy, key, make)
        computation.waiting += 1
        try:
            async with asyncio.timeout(None if leading else deadline - monotonic()):
                return (await asyncio.shield(computation.task)).data
        except TimeoutError:
            raise deadlines.exceeded(model) from None
        except Problem as problem:
            if leading or problem.status != 504:
                raise
            # The one who led had less time than this one has.
            return (await make()).data
        finally:
            computation.waiting -= 1
            if not computation.waiting and not computation.task.done():
                self._forget(key, computation)  # who asks from now on is not given a cancelled one
                computation.task.cancel()

    def _begin(
        self, policy: CachePolicy, key: str, make: Callable[[], Awaitable[Made]]
    ) -> _Computation:
        async def compute() -> Made:
            made = await make()
            await self._keep(policy, key, made)
            return made

        def done(task: asyncio.Task[Made]) -> None:
            self._forget(key, computation)
            if not task.cancelled():
                task.exception()  # whoever waits for it has it

        computation = self._computations[key] = _Computation(
            asyncio.get_running_loop().create_task(compute())
        )
        computation.task.add_done_callback(done)
        return computation

    def _forget(self, key: str, computation: _Computation) -> None:
        if self._computations.get(key) is computation:
            del self._computations[key]

    async def _read(self, key: str, policy: CachePolicy) -> bytes | None:
        async def ask(client: redis.Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                pipe.get(self._name(key))
                pipe.pttl(self._name(key))
                return await pipe.execute()

        asked = monotonic()
        answer = await self._store.optional("cache", ask)
        if answer is None or answer[0] is None:
            return None
        found: bytes = answer[0]
        left: float = answer[1] / 1000
        self._hold(key, found, asked + min(MEMORY_SECONDS, policy.ttl_seconds, left))
        return found

    def _hold(self, key: str, data: bytes, until: float) -> None:
        """Keep an entry in this process, no longer than Redis does."""
        self._memory.put(key, data, until, len(data) + OVERHEAD_BYTES)

    async def _keep(self, policy: CachePolicy, key: str, made: Made) -> None:
        if not made.keep or len(made.data) > policy.max_bytes:
            return
        # Entries made together must not all expire together.
        life = policy.ttl_seconds * (1 + random.uniform(-policy.jitter, policy.jitter))
        self._hold(key, made.data, monotonic() + min(MEMORY_SECONDS, life))

        async def ask(client: redis.Redis) -> None:
            await client.set(self._name(key), made.data, px=max(1, round(life * 1000)))

        await self._store.optional("cache", ask)

    def _name(self, key: str) -> str:
        return f"{self._store.prefix}:cache:{key}"
