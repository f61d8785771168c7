"""A release's requests of late: how many, how many failed or were refused, how slow. Mostly pure.

From Prometheus where there is one: the last minutes. Else from the pods' own metrics: since they
started. Services name their metrics as the ones here do, or as Istio's sidecar does.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from prometheus_client.parser import text_string_to_metric_families

from release.cluster import Cluster, Object
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


FAMILIES = (
    Family(
        "http_server_request_duration_seconds_count", "http_response_status_code",
        "http_server_request_duration_seconds",
    ),
    Family("inference_requests_total", "status", "inference_request_duration_seconds"),
    Family(
        "istio_requests_total", "response_code", "istio_request_duration_milliseconds", 0.001
    ),
)  # fmt: skip


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


def of_metrics(texts: Iterable[str]) -> Traffic | None:
    """The sum of several pods' metrics; None where they have none that is known."""
    counts: dict[str, Counter[int]] = {}
    buckets: dict[str, Counter[float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                for known in FAMILIES:
                    if sample.name == known.requests and known.status in sample.labels:
                        status = _status(sample.labels[known.status])
                        counts.setdefault(known.requests, Counter())[status] += int(sample.value)
                    elif sample.name == f"{known.seconds}_bucket":
                        bound = float(sample.labels["le"])
                        buckets.setdefault(known.requests, Counter())[bound] += int(sample.value)
    for known in FAMILIES:
        if found := counts.get(known.requests):
            p99 = quantile(buckets.get(known.requests, {}), 0.99)
            scaled = None if p99 is None else p99 * known.scale
            return _traffic(found, scaled, "since its pods started")
    return None


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


def from_pods(cluster: Cluster, environment: str, release: str, pods: Sequence[Object]) -> Traffic:
    """What a release's ready pods have counted since they started.

    Raises ReleaseError where they cannot be asked.
    """
    program = (
        "import sys, urllib.request as r; "
        "sys.stdout.write(r.build_opener(r.ProxyHandler({})).open("
        "'http://127.0.0.1:%d/metrics', timeout=5).read().decode())"
    )

    def metrics(pod: Object) -> str:
        container = next(c for c in pod["spec"]["containers"] if c["name"] == release)
        port = next(
            (p["containerPort"] for p in container.get("ports", ()) if p.get("name") == "http"),
            8080,
        )
        command = ["python3", "-c", program % port]
        return cluster.run_in_pod(environment, pod["metadata"]["name"], release, command)

    with ThreadPoolExecutor(max(1, len(pods))) as pool:
        texts = list(pool.map(metrics, pods))
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
        pods = f'namespace="{environment}",pod=~"{release}-[a-z0-9]+-[a-z0-9]{{5}}"'
        span = f"{MINUTES}m"
        for known in FAMILIES:
            rows = self.query(
                f"sum by ({known.status}) (increase({known.requests}{{{pods}}}[{span}]))"
            )
            if not rows:
                continue
            counts: Counter[int] = Counter()
            for row in rows:
                status = _status(row["metric"].get(known.status, ""))
                counts[status] += round(float(row["value"][1]))
            slow = self.query(
                "histogram_quantile(0.99, sum by (le) "
                f"(rate({known.seconds}_bucket{{{pods}}}[{span}])))"
            )
            value = float(slow[0]["value"][1]) * known.scale if slow else float("nan")
            return _traffic(counts, None if math.isnan(value) else value, f"last {span}")
        return None

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


def _traffic(counts: Mapping[int, int], p99: float | None, span: str) -> Traffic:
    failed = sum(count for status, count in counts.items() if status >= 500)
    return Traffic(sum(counts.values()), counts.get(429, 0), failed, p99, span)


def _status(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
