"""Redis: what can do without it goes on, what cannot says so."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError

from kit.http.problem import Problem
from kit.telemetry import logs
from proxy.settings import ProxySettings
from proxy.telemetry.metrics import Metrics

log = logs.get("proxy.redis")

T = TypeVar("T")
SKIPPED_SECONDS = 1.0  # after a failure Redis is not asked again for this long
DURABLE_TIMEOUT_SECONDS = 5.0


def key_of(*parts: str) -> str:
    """A key made of callers' words: a hash over the parts, each with its length.

    Joined by a colon, ``a:b`` and ``c`` would be the same key as ``a`` and ``b:c``, and one
    caller would read what another kept.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


class Store:
    """Clients of one Redis: an impatient one, one for jobs, one for those who follow jobs."""

    def __init__(self, settings: ProxySettings, metrics: Metrics) -> None:
        self.prefix = settings.redis_prefix
        self.configured = bool(settings.redis_url)
        self._url = settings.redis_url
        self._timeout = settings.redis_timeout_seconds
        self._metrics = metrics
        self._skipped_until = float("-inf")
        if self.configured:
            self.fast = _client(settings.redis_url, timeout=settings.redis_timeout_seconds)
            self.durable = _client(settings.redis_url, timeout=DURABLE_TIMEOUT_SECONDS)
            # Each follower keeps a connection, which submits must not be short of.
            self.following = _client(
                settings.redis_url,
                timeout=DURABLE_TIMEOUT_SECONDS,
                connections=settings.jobs.max_followers,
            )

    async def optional(self, use: str, work: Callable[[redis.Redis], Awaitable[T]]) -> T | None:
        """The result of ``work``, or None within 50 ms where Redis does not answer.

        ``use`` names what did without it in the metric ``slipway_proxy_redis_stepped_aside``.
        """
        if not self.configured:
            return None
        now = monotonic()
        if now < self._skipped_until:
            self._metrics.stepped_aside.add(use)
            return None
        for last in (False, True):
            began = monotonic()
            try:
                async with asyncio.timeout(self._timeout):
                    return await work(self.fast)
            except (RedisError, OSError, TimeoutError) as error:
                late = monotonic() - began > 1.5 * self._timeout
                if isinstance(error, TimeoutError) and late and not last:
                    continue  # it was this process that was busy; Redis may well have answered
                if now >= self._skipped_until:
                    reason, fix = unreachable(self._url, error)
                    log.warning("redis does not answer", use=use, reason=reason, fix=fix)
                self._skipped_until = monotonic() + SKIPPED_SECONDS
                break
        self._metrics.stepped_aside.add(use)
        return None

    def need(self) -> redis.Redis:
        """The patient client; Problem 503 where no Redis is configured."""
        if not self.configured:
            raise Problem(503, "jobs-unavailable", "jobs need Redis: set PROXY_REDIS_URL")
        return self.durable

    async def close(self) -> None:
        """Close the connections."""
        if self.configured:
            await self.fast.aclose()
            await self.durable.aclose()
            await self.following.aclose()


async def script(client: redis.Redis, text: str, keys: Sequence[str], *values: Any) -> Any:
    """The answer of a Lua script, sent by its digest; as text where Redis does not know it yet."""
    try:
        return await client.evalsha(_digest(text), len(keys), *keys, *values)
    except NoScriptError:
        return await client.eval(text, len(keys), *keys, *values)


@cache
def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def unavailable(error: Exception) -> Problem:
    """The answer where jobs cannot reach Redis."""
    log.warning("redis does not answer", use="jobs", reason=repr(error))
    return Problem(
        503,
        "jobs-unavailable",
        "the job store does not answer; predictions still work",
        headers={"retry-after": "2"},
    )


def unreachable(url: str, error: Exception) -> tuple[str, str]:
    """Why a Redis is of no use, by its address without the password; and the fix."""
    parts = urlsplit(url)
    address = f"{parts.hostname or url}:{parts.port or 6379}"
    if isinstance(error, AuthenticationError | NoPermissionError):
        fix = "give PROXY_REDIS_URL a user and password that Redis lets in, then restart the pod"
        return f"Redis at {address} refuses the credentials: {error}", fix
    fix = "look whether Redis runs there; if the address is wrong, correct PROXY_REDIS_URL"
    return f"Redis at {address} does not answer: {_cause(error)}", fix


def _cause(error: BaseException) -> str:
    """The error's text without the numbers of a connection, which differ from try to try."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _client(url: str, *, timeout: float, connections: int = 256) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=redis.Retry(NoBackoff(), 0) if hasattr(redis, "Retry") else None,
        health_check_interval=0,
        max_connections=connections,
    )
