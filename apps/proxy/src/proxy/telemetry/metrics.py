"""Metrics under OpenTelemetry's names, counted in plain integers.

The Prometheus client takes a lock and walks its buckets for every observation; on the path of
every request that is dearer than what it measures. One event loop needs no lock: a histogram
here is a list and a bisection, made into the client's families when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

# Seconds; OpenTelemetry's advice for http.server.request.duration.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# Seconds that the proxy adds: two orders of magnitude below.
OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
# Label values beyond this many are counted together: a caller must not fill our memory.
MOST_SERIES = 2000
OVERFLOW = "other"

Labels = tuple[str, ...]


class Counter:
    """A count for each combination of label values."""

    def __init__(self, name: str, help: str, labels: Labels = ()) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._values: dict[Labels, float] = {}

    def add(self, *values: str, by: float = 1.0) -> None:
        """Count ``by`` more."""
        if values not in self._values and len(self._values) >= MOST_SERIES:
            values = (OVERFLOW,) * len(values)
        self._values[values] = self._values.get(values, 0.0) + by

    def value(self, *values: str) -> float:
        """The count so far."""
        return self._values.get(values, 0.0)

    def family(self) -> Metric:
        """As the Prometheus client wants it."""
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for values, count in self._values.items():
            family.add_metric(values, count)
        return family


class Histogram:
    """Observations in buckets, for each combination of label values."""

    def __init__(
        self, name: str, help: str, labels: Labels = (), bounds: tuple[float, ...] = SECONDS
    ) -> None:
        self.name, self.help, self.labels, self.bounds = name, help, labels, bounds
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *values: str) -> None:
        """Count one observation."""
        series = self._series.get(values)
        if series is None:
            if len(self._series) >= MOST_SERIES:
                values = (OVERFLOW,) * len(values)
            series = self._series.setdefault(values, ([0] * (len(self.bounds) + 1), [0.0]))
        series[0][bisect_left(self.bounds, value)] += 1
        series[1][0] += value

    def count(self, *values: str) -> int:
        """How many observations so far."""
        series = self._series.get(values)
        return sum(series[0]) if series else 0

    def family(self) -> Metric:
        """As the Prometheus client wants it."""
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for values, (counts, total) in self._series.items():
            running, buckets = 0, []
            for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
                running += count
                buckets.append((bound, float(running)))
            family.add_metric(values, buckets, sum_value=total[0])
        return family


class Gauge:
    """Values asked for when somebody scrapes."""

    def __init__(
        self,
        name: str,
        help: str,
        labels: Labels,
        read: Callable[[], Iterable[tuple[Labels, float]]],
    ) -> None:
        self.name, self.help, self.labels, self.read = name, help, labels, read

    def family(self) -> Metric:
        """As the Prometheus client wants it."""
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for values, value in self.read():
            family.add_metric(values, value)
        return family


class Metrics(Collector):
    """Everything the proxy counts. One object for each application, none of it global."""

    def __init__(self) -> None:
        self.requests = Histogram(
            "http_server_request_duration_seconds",
            "Duration of requests, from the first byte in to the last byte out.",
            (
                "http_route",
                "http_request_method",
                "http_response_status_code",
                "model",
                "variant",
            ),
        )
        self.upstream = Histogram(
            "http_client_request_duration_seconds",
            "Duration of requests to backends, until their headers.",
            ("backend", "http_response_status_code"),
        )
        self.overhead = Histogram(
            "slipway_proxy_overhead_seconds",
            "What the proxy itself added to a request, until the answer's headers.",
            ("http_route",),
            OVERHEAD_SECONDS,
        )
        self.failures = Counter(
            "slipway_proxy_failures",
            "Requests the proxy answered with a problem, by its type.",
            ("http_route", "type"),
        )
        self.probes = Counter(
            "slipway_proxy_probes",
            "Requests of `release verify`, which the request metrics leave out.",
            ("http_route", "http_response_status_code"),
        )
        self.upstream_failures = Counter(
            "slipway_proxy_upstream_failures",
            "Attempts at a backend that brought no answer, by reason.",
            ("backend", "reason"),
        )
        self.retries = Counter(
            "slipway_proxy_retries", "Attempts made again, by outcome.", ("backend", "outcome")
        )
        self.cache = Counter(
            "slipway_proxy_cache", "Prediction cache look-ups, by result.", ("model", "result")
        )
        self.stepped_aside = Counter(
            "slipway_proxy_redis_stepped_aside",
            "Times cache or rate limits went on without Redis.",
            ("use",),
        )
        self.jobs = Counter("slipway_jobs", "Jobs by outcome.", ("model", "outcome"))
        self.job_seconds = Histogram(
            "slipway_job_duration_seconds",
            "Duration of jobs, from submission to their end.",
            ("model",),
            (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0),
        )
        self.callbacks = Counter("slipway_callbacks", "Callbacks by outcome.", ("outcome",))
        self.access_log_dropped = Counter(
            "slipway_proxy_access_log_dropped", "Access log lines dropped because stdout is full."
        )
        self._gauges: list[Gauge] = []

    def gauge(
        self,
        name: str,
        help: str,
        labels: Labels,
        read: Callable[[], Iterable[tuple[Labels, float]]],
    ) -> None:
        """Report what ``read`` answers under ``name`` at every scrape."""
        self._gauges.append(Gauge(name, help, labels, read))

    def collect(self) -> Iterator[Metric]:
        """Everything counted so far."""
        for each in vars(self).values():
            if isinstance(each, Counter | Histogram):
                yield each.family()
        for gauge in self._gauges:
            yield gauge.family()

    def registry(self) -> CollectorRegistry:
        """A registry with these metrics and those of the process."""
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry
