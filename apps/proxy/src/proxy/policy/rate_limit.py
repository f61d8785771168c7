"""Rate limits: so many requests in a window for each caller, over all pods together.

A round trip to Redis for every request would cost more than most requests do, so a pod leases
requests in batches and hands them out from memory. Leased requests are counted as used: several
pods together never admit more than the limit, they may admit a few less.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from time import monotonic

import redis.asyncio as redis

from kit.http.problem import Problem
from proxy.config.policies import RateLimit
from proxy.http.request import Request
from proxy.settings import ProxySettings
from proxy.store.redis import Store, key_of, script

# Lease up to ARGV[1] requests of ARGV[2] in the window of ARGV[3] ms.
# Answers: requests granted, requests leased so far by everybody, ms until the window ends.
LEASE = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
local grant = math.max(0, math.min(tonumber(ARGV[1]), tonumber(ARGV[2]) - used))
if grant > 0 then
  used = redis.call('INCRBY', KEYS[1], grant)
end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  left = tonumber(ARGV[3])
end
return {grant, used, left}
"""

LEASED_SHARE = 50  # a pod leases at most a fiftieth of the limit in one go
LEASE_SECONDS = 1.0
MOST_CALLERS = 10_000


@dataclass(slots=True)
class Window:
    """What this pod knows of a caller's window: requests it holds, leased by all, its end."""

    held: int
    used: int
    ends: float
    leased_at: float
    policy: bytes


class Limits:
    """Admits requests, or answers 429."""

    def __init__(self, settings: ProxySettings, store: Store) -> None:
        self._default = settings.rate_limit
        self._store = store
        self._windows: dict[str, Window] = {}
        self._leases: dict[str, asyncio.Task[Window | None]] = {}
        self._waiting: dict[str, int] = {}

    async def admit(self, request: Request) -> None:
        """Count the request; Problem 429 past the limit. Without Redis everybody is admitted."""
        if self.admit_from_lease(request):
            return
        limit, name = self._limit_of(request)
        assert limit is not None  # without one it was admitted
        while True:
            window = await self._lease_together(name, limit)
            if window is None:
                return
            # What Redis said is an answer, however long it took: a slow one whose every answer
            # is older than the window would be asked for ever.
            if window.held > 0 or _is_used_up(window, limit):
                break
        _take(request, window, limit, name, monotonic())

    def admit_from_lease(self, request: Request) -> bool:
        """``admit`` from what this pod holds; False where Redis must be asked first."""
        limit, name = self._limit_of(request)
        if limit is None or not self._store.configured:
            return True
        now = request.started
        window = self._windows.get(name)
        if window is None or now >= window.ends or not self._holds(window, limit, now):
            return False
        _take(request, window, limit, name, now)
        return True

    def _limit_of(self, request: Request) -> tuple[RateLimit | None, str]:
        """The limit that holds for a request, and the name it is counted under."""
        caller = request.caller
        own = caller.rate_limit if caller is not None else None
        return own or self._default, request.caller_name

    @staticmethod
    def _holds(window: Window, limit: RateLimit, now: float) -> bool:
        """Whether this pod can decide alone: it holds some, or knows that none are left."""
        if window.held > 0:
            return True
        return _is_used_up(window, limit) and now - window.leased_at < LEASE_SECONDS

    async def _lease_together(self, name: str, limit: RateLimit) -> Window | None:
        """One lease at a time for a caller: a burst asks Redis once, for all that wait."""
        self._waiting[name] = self._waiting.get(name, 0) + 1
        lease = self._leases.get(name)
        if lease is None:
            lease = asyncio.get_running_loop().create_task(self._lease_once(name, limit))
            self._leases[name] = lease
        try:
            return await asyncio.shield(lease)
        finally:
            waiting = self._waiting[name] - 1
            if waiting:
                self._waiting[name] = waiting
            else:
                del self._waiting[name]

    async def _lease_once(self, name: str, limit: RateLimit) -> Window | None:
        # Not from a callback, which runs a moment after the end: whoever came in that moment got
        # the ended lease without a wait, found all of it spent, and asked for it again for ever.
        try:
            return await self._lease(name, limit)
        finally:
            del self._leases[name]

    async def _lease(self, name: str, limit: RateLimit) -> Window | None:
        now = monotonic()
        want = max(1, limit.requests // LEASED_SHARE, self._waiting.get(name, 0))
        window_of = key_of(name, str(limit.requests), f"{limit.window_seconds:g}")
        key = f"{self._store.prefix}:rate:{window_of}"
        milliseconds = round(limit.window_seconds * 1000)

        async def ask(client: redis.Redis) -> list[int]:
            answer: list[int] = await script(
                client, LEASE, (key,), want, limit.requests, milliseconds
            )
            return answer

        answer = await self._store.optional("rate-limit", ask)
        if answer is None:
            return None
        granted, used, left = answer
        if len(self._windows) >= MOST_CALLERS:
            self._windows = {k: w for k, w in self._windows.items() if w.ends > now}
            if len(self._windows) >= MOST_CALLERS:
                self._windows.clear()
        window = self._windows.get(name)
        if window is None or now >= window.ends:
            policy = f'"default";q={limit.requests};w={limit.window_seconds:g}'.encode()
            window = self._windows[name] = Window(0, 0, 0.0, 0.0, policy)
        window.held += granted  # another request may have leased while we waited
        window.used = used
        window.ends = now + max(0.001, left / 1000)
        window.leased_at = now
        return window


def _take(request: Request, window: Window, limit: RateLimit, name: str, now: float) -> None:
    """One request of the window, reported in the answer's headers; Problem 429 without one."""
    if window.held <= 0:
        wait = max(1, math.ceil(window.ends - now))
        raise Problem(
            429,
            "rate-limited",
            f"{name} may send {limit.requests} requests in {limit.window_seconds:g} s; "
            f"the window ends in {wait} s",
            headers={
                "retry-after": str(wait),
                "ratelimit-policy": window.policy.decode(),
                "ratelimit": f'"default";r=0;t={wait}',
            },
        )
    window.held -= 1
    remaining = max(0, limit.requests - window.used) + window.held
    seconds = max(0, math.ceil(window.ends - now))
    request.extra += (
        (b"ratelimit-policy", window.policy),
        (b"ratelimit", b'"default";r=%d;t=%d' % (remaining, seconds)),
    )


def _is_used_up(window: Window, limit: RateLimit) -> bool:
    return window.used >= limit.requests
