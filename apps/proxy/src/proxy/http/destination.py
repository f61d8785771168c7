"""A backend or upstream with what protects it: concurrency, breaker, retry budget, connections."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from time import monotonic

from kit.http.problem import Problem
from proxy.config.backends import Guard, Target, Upstream
from proxy.http import client
from proxy.http import deadline as deadlines
from proxy.http.client import Pool
from proxy.http.connection import Connection, DeadlineExceededError, RefusedError, UpstreamError
from proxy.http.resilience import Breaker, Concurrency, RetryBudget, circuit_open
from proxy.http.shared_timer import timer_of
from proxy.telemetry.metrics import Metrics

FAILING = frozenset({500, 502, 503, 504})
REPEATABLE_STATUS = frozenset({502, 503, 504})

Body = bytes | AsyncIterable[bytes]


@dataclass(slots=True)
class Endpoint:
    """One address of a destination."""

    pool: Pool
    weight: int
    breaker: Breaker


class Exchange:
    """An answered request: ``connection`` has status and headers. ``end()`` it, always.

    Whether the backend did well is known once the answer is complete: one that sends its head and
    then nothing, or cuts the body, counts as failing.
    """

    __slots__ = (
        "_breaker",
        "_caller",
        "_destination",
        "_ended",
        "_given",
        "_undecided",
        "connection",
        "pool",
        "seconds",
    )

    def __init__(
        self,
        destination: Destination,
        endpoint: Endpoint,
        connection: Connection,
        seconds: float,
        caller: str,
        *,
        undecided: bool,
        given: float,
    ) -> None:
        self._destination = destination
        self._breaker = endpoint.breaker
        self._caller = caller
        self._ended = False
        self._undecided = undecided
        self._given = given
        self.connection = connection
        self.pool = endpoint.pool
        self.seconds = seconds

    def count_as_good(self) -> None:
        """The head is what counts: the answer is a stream, which may never be complete."""
        if self._undecided:
            self._undecided = False
            self._breaker.record(monotonic(), failed=False)

    def end(self) -> None:
        """Give back the connection, and record the outcome at the breaker."""
        if not self._ended:
            self._ended = True
            if self._undecided:
                self._record_outcome()
            self.connection.end()
            self._destination.concurrency.leave(self._caller)

    def _record_outcome(self) -> None:
        error = self.connection.error
        now = monotonic()
        if self.connection.complete:
            self._breaker.record(now, failed=False)
            return
        if error is None:
            self._breaker.abandon()  # nobody waited for the rest
            return
        if isinstance(error, DeadlineExceededError):
            if not self._breaker.record_late(now, self._given):
                return
        else:
            self._breaker.record(now, failed=True)
        self._destination.metrics.upstream_failures.add(self._destination.name, error.reason)


class Destination:
    """Where requests go: one or several weighted addresses behind one name."""

    def __init__(
        self,
        name: str,
        targets: list[Target],
        guard: Guard,
        metrics: Metrics,
        *,
        retry_ratio: float,
        connect_timeout: float,
        idle_seconds: float,
        usual_timeout: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.metrics = metrics
        self.timeout = guard.timeout_seconds
        self.concurrency = Concurrency(guard.max_concurrency, guard.caller_share)
        self.budget = RetryBudget(retry_ratio)
        self.timer = timer_of(asyncio.get_running_loop())
        self.endpoints = [
            Endpoint(
                Pool(
                    target.url,
                    connect_timeout=connect_timeout,
                    idle_seconds=idle_seconds,
                    tls=tls,
                ),
                target.weight,
                Breaker.of(guard, usual_timeout),
            )
            for target in targets
            if target.weight
        ]

    async def ask(
        self,
        head: Callable[[Pool, float], bytes],
        body: Body,
        *,
        deadline: float,
        repeatable: bool,
        head_only: bool = False,
        caller: str = "",
    ) -> Exchange:
        """Send a request and wait for the answer's headers.

        ``head`` makes the request's head for an address and the seconds that are left;
        ``deadline`` is on `time.monotonic`'s clock; the exchange ends by it. ``repeatable`` allows
        one more attempt after a failure that the backend may have seen. Raises Problem: 429
        (concurrency), 502, 503 (unreachable, circuit open), 504.
        """
        if not self.concurrency.enter(caller):
            raise self.concurrency.refusal(self.name)
        self.budget.earn()
        try:
            return await self._attempts(
                head, body, deadline, repeatable=repeatable, head_only=head_only, caller=caller
            )
        except BaseException:
            self.concurrency.leave(caller)
            raise

    async def _attempts(
        self,
        head: Callable[[Pool, float], bytes],
        body: Body,
        deadline: float,
        *,
        repeatable: bool,
        head_only: bool,
        caller: str,
    ) -> Exchange:
        first = True
        tried: Endpoint | None = None
        while True:
            started = monotonic()
            endpoint = self._pick(started, avoid=tried)
            try:
                connection = await client.request(
                    endpoint.pool,
                    head(endpoint.pool, deadline - started),
                    body,
                    deadline=deadline,
                    head_only=head_only,
                    repeatable=repeatable,
                )
            except UpstreamError as error:
                now = monotonic()
                late = isinstance(error, DeadlineExceededError)
                if late:
                    endpoint.breaker.record_late(now, deadline - started)
                else:
                    endpoint.breaker.record(now, failed=True)
                self.metrics.upstream_failures.add(self.name, error.reason)
                may = first and isinstance(body, bytes) and (repeatable or not error.sent)
                if may and not late and self._retry(now, deadline):
                    first, tried = False, endpoint
                    continue
                raise self.problem(error) from error
            except BaseException:
                endpoint.breaker.abandon()
                raise
            now = monotonic()
            status = connection.status
            undecided = status not in FAILING and not connection.complete
            if status == 504:
                endpoint.breaker.record_late(now, deadline - started)
            elif not undecided:
                endpoint.breaker.record(now, failed=status in FAILING)
            self.metrics.upstream.observe(now - started, self.name, str(status))
            if (
                status in REPEATABLE_STATUS
                and first
                and repeatable
                and isinstance(body, bytes)
                and self._retry(now, deadline)
            ):
                connection.end()
                first, tried = False, endpoint
                continue
            return Exchange(
                self,
                endpoint,
                connection,
                now - started,
                caller,
                undecided=undecided,
                given=deadline - started,
            )

    def _retry(self, now: float, deadline: float) -> bool:
        if deadline - now < 0.005:
            return False
        allowed = self.budget.spend()
        self.metrics.retries.add(self.name, "made" if allowed else "over-budget")
        return allowed

    def _pick(self, now: float, *, avoid: Endpoint | None) -> Endpoint:
        if len(self.endpoints) == 1:
            endpoint = self.endpoints[0]
            if endpoint.breaker.allows(now):
                return endpoint
            raise self._open(now)
        candidates = [
            endpoint for endpoint in self.endpoints if endpoint is not avoid
        ] or self.endpoints
        for pool in (candidates, self.endpoints):
            left = list(pool)
            while left:
                (endpoint,) = random.choices(left, weights=[endpoint.weight for endpoint in left])
                if endpoint.breaker.allows(now):
                    return endpoint
                left.remove(endpoint)
        raise self._open(now)

    def _open(self, now: float) -> Problem:
        wait = min(endpoint.breaker.retry_after(now) for endpoint in self.endpoints)
        return circuit_open(self.name, wait)

    def problem(self, error: UpstreamError) -> Problem:
        """The answer for a backend that could not be asked."""
        if isinstance(error, DeadlineExceededError):
            return deadlines.exceeded(self.name)
        if isinstance(error, RefusedError):
            return Problem(
                503,
                error.reason,
                f"{self.name} cannot be reached: {error}",
                headers={"retry-after": "1"},
            )
        return Problem(502, error.reason, f"{self.name}: {error}")

    def states(self) -> list[tuple[str, str]]:
        """Address and breaker state of each endpoint."""
        return [(endpoint.pool.url, endpoint.breaker.state) for endpoint in self.endpoints]

    def sweep(self) -> None:
        """Close connections idle for too long."""
        for endpoint in self.endpoints:
            endpoint.pool.sweep()

    def close(self) -> None:
        """Close every connection."""
        for endpoint in self.endpoints:
            endpoint.pool.close()


def guard_of(upstream: Upstream) -> Guard:
    """The guard an `/api/` upstream's settings describe."""
    return Guard(
        timeout_seconds=upstream.timeout_seconds,
        max_concurrency=upstream.max_concurrency,
        caller_share=upstream.caller_share,
    )
