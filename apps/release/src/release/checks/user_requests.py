"""What users were answered since a commit: a share of errors that is too high fails its verdict.

Prometheus is asked where there is one that knows the release's pods; else the pods' own counters
are read when the verification begins and when it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from release.checks.answers import Problem
from release.cluster.client import Cluster, Object, Observation
from release.errors import ReleaseError
from release.live.traffic import Counted, Prometheus, counted, metrics_of, running_pods

LONGEST_SECONDS = 900.0
"""Requests from longer ago than this say little of now, however old the commit is."""
REFUSALS = (429, 503)


@dataclass(frozen=True)
class Limit:
    """How many of the users' requests may fail or be refused."""

    share: float = 0.05
    """From 0 to 1."""
    least: int = 20
    """Fewer requests than this are no basis for a judgement."""


@dataclass(frozen=True)
class Requests:
    """A release's requests since the commit, by HTTP status."""

    release: str
    by_status: Mapping[int, int] = field(default_factory=dict)
    start: float = 0.0
    """When the count begins, in seconds since the epoch."""
    older_from: float | None = None
    """When it begins for pods that are older than that, where their counters were read."""
    source: str = ""
    """Who counted them: ``Prometheus`` or ``its pods``."""
    unknown: str = ""
    """Why they are not known, where they are not."""
    with_probes: bool = False

    @property
    def total(self) -> int:
        return sum(self.by_status.values())

    @property
    def bad(self) -> Mapping[int, int]:
        """Those that failed (500 and above) or were refused (429, 503)."""
        return {
            status: count
            for status, count in sorted(self.by_status.items())
            if count and (status >= 500 or status in REFUSALS)
        }

    @property
    def refused(self) -> int:
        return sum(self.by_status.get(status, 0) for status in REFUSALS)

    @property
    def failed(self) -> int:
        return sum(self.bad.values()) - self.refused

    def __str__(self) -> str:
        if self.unknown:
            return f"{self.release}: requests of users are not known: {self.unknown}"
        if not self.total:
            return f"{self.release}: no requests of users were seen {self._when}"
        few = ", the verifier's own among them" if self.with_probes else ""
        return f"{self.release}: {self.total} requests of users {self._when}{few}, {self._outcome}"

    def problem(self, limit: Limit) -> Problem | None:
        """Why these fail the verdict, if they do."""
        bad = sum(self.bad.values())
        if self.total < limit.least or bad <= limit.share * self.total:
            return None
        text = (
            f"{bad} of {self.total} requests of users {self._when} failed or were refused "
            f"({self._statuses}); {limit.share:.0%} may"
        )
        if self.refused > self.failed:
            fix = f"give {self.release} and what it calls more pods or memory (`replicas`)"
        else:
            fix = f"see the log of {self.release} and of what it calls"
        return Problem(text, f"{fix}; where so many are usual, raise --failed-share")

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "release": self.release,
            "source": self.source,
            "since": _iso(self.start) if self.source else None,
            "older_pods_since": _iso(self.older_from) if self.older_from is not None else None,
            "requests": self.total,
            "failed": self.failed,
            "refused": self.refused,
            "by_status": {str(status): n for status, n in sorted(self.by_status.items()) if n},
            "verifier_included": self.with_probes,
            "unknown": self.unknown,
        }

    @property
    def _when(self) -> str:
        older = f", of older pods since {_iso(self.older_from)}" if self.older_from else ""
        return f"since {_iso(self.start)}{older} (counted by {self.source})"

    @property
    def _statuses(self) -> str:
        return ", ".join(f"{status}: {count}" for status, count in self.bad.items())

    @property
    def _outcome(self) -> str:
        if not self.bad:
            return "none failed or was refused"
        return f"{self.failed} failed, {self.refused} refused ({self._statuses})"


@dataclass
class UserRequests:
    """The requests of some releases of an environment since a commit."""

    cluster: Cluster
    environment: str
    releases: Sequence[str]
    start: float
    """When the commit was made, in seconds since the epoch."""
    limit: Limit = field(default_factory=Limit)
    prometheus: Prometheus | None = None
    found: list[Requests] = field(default_factory=list)
    """What the last look counted."""
    _began: float = 0.0
    _before: dict[str, dict[str, Counted | None]] = field(default_factory=dict)
    """What each pod had counted when this began, by release and the pod's uid."""

    def begin(self, seen: Observation, now: float) -> None:
        """Read the counters that pods have already; ``now`` is in seconds since the epoch."""
        self.start = max(self.start, now - LONGEST_SECONDS)
        self._began = now
        with ThreadPoolExecutor(max(1, len(self.releases))) as pool:
            self._before = dict(
                zip(self.releases, pool.map(lambda one: self._old(one, seen), self.releases),
                    strict=True)
            )  # fmt: skip

    def look(self, seen: Observation) -> list[tuple[str, Problem]]:
        """What is wrong, each with its release; ``found`` has what was counted."""
        with ThreadPoolExecutor(max(1, len(self.releases))) as pool:
            self.found = list(pool.map(lambda one: self._since(one, seen), self.releases))
        return [
            (one.release, problem)
            for one in self.found
            if (problem := one.problem(self.limit)) is not None
        ]

    def notes(self) -> list[str]:
        """What was counted, and where that is too little to judge by."""
        few = f"; fewer than {self.limit.least} are not judged"
        return [f"{one}{few if 0 < one.total < self.limit.least else ''}." for one in self.found]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "limit": {"share": self.limit.share, "least": self.limit.least},
            "releases": [one.as_json() for one in self.found],
        }

    def _old(self, release: str, seen: Observation) -> dict[str, Counted | None]:
        """What the pods of before the commit had counted; pods made since began at nothing."""
        pods = [pod for pod in running_pods(release, seen.pods) if _made(pod) < self.start]
        try:
            return self._read(release, pods)
        except ReleaseError:
            return {}  # a pod that cannot be read now is left out at the end

    def _since(self, release: str, seen: Observation) -> Requests:
        try:
            return self._of_prometheus(release, seen) or self._of_pods(release, seen)
        except ReleaseError as error:
            return Requests(release, unknown=error.message)

    def _of_prometheus(self, release: str, seen: Observation) -> Requests | None:
        """None where there is no Prometheus, or it does not read every one of the pods yet."""
        if self.prometheus is None:
            return None
        names = {pod["metadata"]["name"] for pod in running_pods(release, seen.pods)}
        if not names <= self.prometheus.pods(self.environment, release):
            return None
        known = self.prometheus.since(self.environment, release, self.start)
        return self._requests(release, known.by_status if known else {}, "Prometheus", known)

    def _of_pods(self, release: str, seen: Observation) -> Requests:
        before = self._before.get(release, {})
        pods = [
            pod
            for pod in running_pods(release, seen.pods)
            if _made(pod) >= self.start or pod["metadata"]["uid"] in before
        ]
        after = self._read(release, pods)
        if not any(after.values()):
            if not pods:
                return Requests(release, unknown="no pod of it could be read from the beginning")
            return Requests(release, unknown="its /metrics counts none by a name that is known")
        total: Counter[int] = Counter()
        known: Counted | None = None
        for uid, now in after.items():
            if now is None:
                continue
            known = now
            then = before.get(uid)
            total += grown(now.by_status, then.by_status if then is not None else Counter())
        found = self._requests(release, total, "its pods", known)
        return replace(found, older_from=self._began) if before.keys() & after.keys() else found

    def _requests(
        self, release: str, counts: Mapping[int, int], source: str, known: Counted | None
    ) -> Requests:
        probes = known is not None and known.family.with_probes
        return Requests(release, dict(counts), self.start, source=source, with_probes=probes)

    def _read(self, release: str, pods: Sequence[Object]) -> dict[str, Counted | None]:
        texts = metrics_of(self.cluster, self.environment, release, pods)
        return {
            pod["metadata"]["uid"]: counted([text]) for pod, text in zip(pods, texts, strict=True)
        }


def grown(now: Counter[int], then: Counter[int]) -> Counter[int]:
    """How much counters grew; where they fell their container began again, at nothing."""
    if any(now[status] < count for status, count in then.items()):
        return now
    return now - then


def _made(pod: Object) -> float:
    text = pod["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
