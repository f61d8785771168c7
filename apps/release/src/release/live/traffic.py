"""A release's requests of late: how many, how many failed or were refused, how slow. Mostly pure.

From Prometheus where there is one: the last minutes. Else from the pods' own metrics: since they
started. Services name their metrics as the ones here do, or as Istio's sidecar does.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx
from prometheus_client.parser import text_string_to_metric_families

from release.cluster import pod_request
from release.cluster.client import Cluster, Object
from release.diagnosis.jobs import INSTANCE
from release.errors import ReleaseError, UnreachableError

MINUTES = 5
IN_CLUSTER = "monitoring/prometheus-operated:9090"
"""Where the operator's Prometheus answers, in the one-machine cluster and by its chart."""
NO_PROMETHEUS = "no Prometheus"


@dataclass(frozen=True)
class Family:
    """Metrics of one kind of server."""

    requests: str
    """A counter of requests."""
    status: str
    """Its label that holds the HTTP status."""
    seconds: str
    """A histogram of durations, without ``_bucket``."""
    scale: float = 1.0
    refused: tuple[str, str, str] | None = None
    """A counter, its label and that one's value: requests answered 429 unread, which the counter
    of requests has not."""
    with_probes: bool = False
    """Whether the verifier's own requests are among them."""


FAMILIES = (
    Family(
        "http_server_request_duration_seconds_count", "http_response_status_code",
        "http_server_request_duration_seconds",
        refused=("slipway_proxy_failures_total", "type", "overloaded"),
    ),
    Family(
        "inference_requests_total", "status", "inference_request_duration_seconds",
        refused=("inference_refused_total", "reason", "overloaded"),
    ),
    Family(
        "istio_requests_total", "response_code", "istio_request_duration_milliseconds", 0.001,
        with_probes=True,
    ),
)  # fmt: skip
REFUSED = 429


@dataclass(frozen=True)
class Traffic:
    """Requests of a release; ``p99`` in seconds, None where nothing tells it."""

    requests: int
    refused: int
    """Answered 429."""
    failed: int
    """Answered 500 and above."""
    p99: float | None
    span: str
    """What time it is about: ``last 5m`` or ``since its pods started``."""

    def __str__(self) -> str:
        if not self.requests:
            return "none"
        slow = f", p99 {_seconds(self.p99)}" if self.p99 is not None else ""
        refused = f", {self.refused} refused" if self.refused else ""
        return f"{self.requests}, {self.failed} failed{refused}{slow}"


@dataclass
class Counted:
    """What the metrics of some pods say of one family."""

    family: Family
    by_status: Counter[int] = field(default_factory=Counter)
    """Requests by HTTP status; 0 where it is none."""
    buckets: Counter[float] = field(default_factory=Counter)
    declared: bool = False
    """Whether the metrics have the family, be it without a request so far."""


def counted(texts: Iterable[str]) -> Counted | None:
    """The sum of several pods' metrics; None where they have no family that is known."""
    found = [Counted(known) for known in FAMILIES]
    for text in texts:
        for metrics in text_string_to_metric_families(text):
            for one in found:
                names = (one.family.seconds, one.family.requests.removesuffix("_total"))
                one.declared |= metrics.name in names
                for sample in metrics.samples:
                    _add(one, sample.name, sample.labels, sample.value)
    with_requests = (one for one in found if one.by_status)
    return next(with_requests, None) or next((one for one in found if one.declared), None)


def _add(to: Counted, name: str, labels: Mapping[str, str], value: float) -> None:
    known = to.family
    if name == known.requests and known.status in labels:
        to.by_status[_status(labels[known.status])] += int(value)
    elif name == f"{known.seconds}_bucket":
        to.buckets[float(labels["le"])] += int(value)
    elif known.refused is not None and name == known.refused[0]:
        _, label, wanted = known.refused
        if labels.get(label) == wanted:
            to.by_status[REFUSED] += int(value)


def of_metrics(texts: Iterable[str]) -> Traffic | None:
    """The sum of several pods' metrics; None where they have none that is known."""
    found = counted(texts)
    if found is None:
        return None
    p99 = quantile(found.buckets, 0.99)
    scaled = None if p99 is None else p99 * found.family.scale
    return _traffic(found.by_status, scaled, "since its pods started")


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The bound below which that share of a cumulative histogram lies; None without counts.

    As Prometheus does it: linear within a bucket, the last finite bound beyond it.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if not total:
        return None
    wanted, lower, below = share * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if bound == float("inf"):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((wanted - below) / inside if inside else 1.0)
        lower, below = bound, buckets[bound]
    return lower


SIDE_BY_SIDE = 16


def running_pods(release: str, pods: Iterable[Object]) -> list[Object]:
    """Pods of a release that run and are not about to end."""
    return [
        pod
        for pod in pods
        if pod["metadata"].get("labels", {}).get(INSTANCE) == release
        and pod.get("status", {}).get("phase") == "Running"
        and not pod["metadata"].get("deletionTimestamp")
    ]


def metrics_of(
    cluster: Cluster, environment: str, release: str, pods: Sequence[Object]
) -> list[str]:
    """What each of a release's pods answers at /metrics, asked by a command in the pod; "" where
    that is no metrics.

    Raises NotFoundError where its image has no program to ask with, else ReleaseError where it
    cannot be asked.
    """

    def metrics(pod: Object) -> str:
        request = pod_request.to_container(pod, release, "/metrics")
        name = pod["metadata"]["name"]
        answer = pod_request.ask(cluster, environment, name, release, request)
        return answer.body if answer.status == 200 else ""

    with ThreadPoolExecutor(min(SIDE_BY_SIDE, len(pods) or 1)) as pool:
        return list(pool.map(metrics, pods))


def from_pods(cluster: Cluster, environment: str, release: str, pods: Sequence[Object]) -> Traffic:
    """What a release's ready pods have counted since they started.

    Raises ReleaseError where they cannot be asked.
    """
    texts = metrics_of(cluster, environment, release, pods)
    return of_metrics(texts) or Traffic(0, 0, 0, None, "since its pods started")


@dataclass
class Prometheus:
    """One Prometheus: by URL, or ``namespace/service:port`` through the API server."""

    cluster: Cluster
    address: str = IN_CLUSTER

    def found(self) -> bool:
        """Whether it answers."""
        try:
            self.query("vector(1)")
        except ReleaseError:
            return False
        return True

    def traffic(self, environment: str, release: str) -> Traffic | None:
        """The last minutes; None where it knows no requests of the release."""
        pods = _selector(environment, release)
        span = f"{MINUTES}m"
        for known in FAMILIES:
            counts = self._by_status(known, pods, lambda series: f"increase({series}[{span}])")
            if counts is None:
                continue
            slow = self.query(
                "histogram_quantile(0.99, sum by (le) "
                f"(rate({known.seconds}_bucket{{{pods}}}[{span}])))"
            )
            value = float(slow[0]["value"][1]) * known.scale if slow else float("nan")
            return _traffic(counts, None if math.isnan(value) else value, f"last {span}")
        return None

    def pods(self, environment: str, release: str) -> set[str]:
        """Names of a release's pods that it reads now."""
        rows = self.query(f"group by (pod) (up{{{_selector(environment, release)}}} == 1)")
        return {row["metric"].get("pod", "") for row in rows}

    def since(self, environment: str, release: str, start: float) -> Counted | None:
        """Requests since ``start`` (seconds since the epoch) of the pods that it knows now; None
        where it knows of no request.

        What each pod counted by now, less what it had counted then: exact, also for a pod that
        began later, of which an `increase` misses the first requests.
        """

        def grown(series: str) -> str:
            then = f"({series} @ {start:.3f} or {series} * 0)"
            return f"clamp_min({series} - {then}, 0)"

        pods = _selector(environment, release)
        for known in FAMILIES:
            counts = self._by_status(known, pods, grown)
            if counts is not None:
                return Counted(known, counts)
        return None

    def _by_status(
        self, known: Family, pods: str, over: Callable[[str], str]
    ) -> Counter[int] | None:
        """A family's requests by status, refusals too; None where it has no such series."""
        all_of_them = f"{known.requests}{{{pods}}}"
        rows = self.query(f"sum by ({known.status}) ({over(all_of_them)})")
        if not rows:
            return None
        counts: Counter[int] = Counter()
        for row in rows:
            counts[_status(row["metric"].get(known.status, ""))] += round(float(row["value"][1]))
        if known.refused is not None:
            name, label, value = known.refused
            unread = f'{name}{{{pods},{label}="{value}"}}'
            for row in self.query(f"sum({over(unread)})"):
                counts[REFUSED] += round(float(row["value"][1]))
        return counts

    def query(self, text: str) -> list[dict[str, Any]]:
        """The rows of an instant query.

        Raises ReleaseError where it does not answer so.
        """
        if self.address.startswith(("http://", "https://")):
            answer = self._by_url(text)
        else:
            namespace, _, service = self.address.partition("/")
            path = f"/api/v1/namespaces/{namespace}/services/{service}/proxy/api/v1/query"
            answer = self.cluster.request("GET", path, [("query", text)])
        rows: list[dict[str, Any]] = answer["data"]["result"]
        return rows

    def _by_url(self, text: str) -> Object:
        url = f"{self.address.rstrip('/')}/api/v1/query?{urlencode({'query': text})}"
        try:
            answer = httpx.get(url, timeout=10)
            answer.raise_for_status()
            found: Object = json.loads(answer.text)
        except (httpx.HTTPError, ValueError) as error:
            raise UnreachableError(
                f"Prometheus at {self.address} does not answer: {error}",
                fix="correct --prometheus",
            ) from error
        return found


def _selector(environment: str, release: str) -> str:
    """Prometheus' labels of the pods of a Deployment."""
    return f'namespace="{environment}",pod=~"{release}-[a-z0-9]+-[a-z0-9]{{5}}"'


def _traffic(counts: Mapping[int, int], p99: float | None, span: str) -> Traffic:
    failed = sum(count for status, count in counts.items() if status >= 500)
    return Traffic(sum(counts.values()), counts.get(REFUSED, 0), failed, p99, span)


def _status(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
