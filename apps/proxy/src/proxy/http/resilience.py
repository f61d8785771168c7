"""What keeps one bad backend from becoming everybody's problem: limits, breaker, budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from kit.http.problem import Problem
from proxy.config.backends import Guard

State = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class Concurrency:
    """A bound on requests under way; past it, 429 rather than a queue.

    One caller has at most ``share`` of it, rounded up, so that no caller closes a backend to the
    others. Only the limit of all binds a caller without a name (the proxy itself, the worker).
    """

    limit: int
    share: float = 1.0
    in_flight: int = 0
    limit_of_one: int = field(init=False)
    """How many one caller may have under way."""
    _by_caller: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limit_of_one = math.ceil(self.limit * self.share)

    def enter(self, caller: str = "") -> bool:
        """Count a request; False where there are too many. True must be followed by ``leave``."""
        if self.in_flight >= self.limit:
            return False
        if caller:
            mine = self._by_caller.get(caller, 0)
            if mine >= self.limit_of_one:
                return False
            self._by_caller[caller] = mine + 1
        self.in_flight += 1
        return True

    def leave(self, caller: str = "") -> None:
        """The caller's request has ended."""
        self.in_flight -= 1
        if caller:
            mine = self._by_caller[caller] - 1
            if mine:
                self._by_caller[caller] = mine
            else:
                del self._by_caller[caller]

    def refusal(self, name: str) -> Problem:
        """429 for a request that was not let in."""
        if self.in_flight >= self.limit:
            why = f"{name} has {self.limit} requests under way, which is its limit"
        else:
            why = f"one caller may have {self.limit_of_one} of the {self.limit} requests of {name}"
        return Problem(
            429, "backend-busy", f"{why}; try again shortly", headers={"retry-after": "1"}
        )


@dataclass(slots=True)
class Breaker:
    """Opens when at least ``failures`` requests of a window failed and they are ``ratio`` of it.

    Open: nothing passes for ``open_seconds``. Then one request is let through (half-open); its
    outcome closes or opens the breaker. Times are the caller's clock, in seconds. A backend that
    was given less than ``patience`` seconds for its answer and gave none did not fail.
    """

    failures: int
    ratio: float
    window: float
    open_seconds: float
    patience: float = 0.0
    state: State = "closed"
    _started: float = 0.0
    _good: int = 0
    _bad: int = 0
    _until: float = 0.0
    _trial: bool = field(default=False)

    @classmethod
    def of(cls, guard: Guard, usual_timeout: float) -> Breaker:
        """The breaker that settings describe.

        Its patience is nearly what they give the backend, by its own timeout or by the usual one
        of requests: a caller that gives it less must not close it to the others.
        """
        return cls(
            guard.breaker_failures,
            guard.breaker_ratio,
            guard.breaker_window_seconds,
            guard.breaker_open_seconds,
            patience=0.9 * min(guard.timeout_seconds, usual_timeout),
        )

    def allows(self, now: float) -> bool:
        """Whether a request may pass now. True must be followed by ``record`` or ``abandon``."""
        if self.state == "closed":
            return True
        if self.state == "open":
            if now < self._until:
                return False
            self.state = "half-open"
            self._trial = False
        if self._trial:
            return False
        self._trial = True
        return True

    def record(self, now: float, *, failed: bool) -> None:
        """The outcome of a request that was allowed."""
        if self.state == "half-open":
            self._trial = False
            if failed:
                self._open(now)
            else:
                self.state = "closed"
                self._restart(now)
            return
        if self.state == "open":
            return
        if now - self._started > self.window:
            self._restart(now)
        if failed:
            self._bad += 1
            if self._bad >= self.failures and self._bad >= self.ratio * (self._bad + self._good):
                self._open(now)
        else:
            self._good += 1

    def record_late(self, now: float, given: float) -> bool:
        """No answer within the ``given`` seconds; whether that counts as a failure."""
        if given < self.patience:
            self.abandon()
            return False
        self.record(now, failed=True)
        return True

    def abandon(self) -> None:
        """A request that was allowed ended without an outcome (the caller hung up)."""
        self._trial = False

    def retry_after(self, now: float) -> float:
        """Seconds until a request may pass again, at least a tenth."""
        return max(0.1, self._until - now)

    def _open(self, now: float) -> None:
        self.state = "open"
        self._until = now + self.open_seconds

    def _restart(self, now: float) -> None:
        self._started = now
        self._good = self._bad = 0


def circuit_open(name: str, wait: float) -> Problem:
    """503 for a request that the breakers of a backend let through in ``wait`` seconds only."""
    return Problem(
        503,
        "circuit-open",
        f"{name} failed too often of late; it is asked again in {wait:.1f} s",
        headers={"retry-after": str(max(1, round(wait)))},
    )


@dataclass(slots=True)
class RetryBudget:
    """Retries as a share of requests: each request earns ``ratio``, each retry costs one.

    A backend that fails everything gets ``ratio`` more load, not twice the load.
    """

    ratio: float
    cap: float = 10.0
    tokens: float = 1.0

    def earn(self) -> None:
        """A first attempt was made."""
        if self.tokens < self.cap:
            self.tokens += self.ratio

    def spend(self) -> bool:
        """Whether a retry may be made now; it is then paid for."""
        if self.tokens < 1.0 or self.ratio == 0:
            return False
        self.tokens -= 1.0
        return True
