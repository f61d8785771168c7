"""The statistics as Prometheus metrics, put together when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from inference.engine.engine import Engine
from inference.models.onnx_model import VERSION
from inference.models.statistics import Histogram

_MODEL = ["model", "version"]


class InferenceCollector(Collector):
    """Reads what the event loop has counted; costs requests nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every metric of the server."""
        registry = self._engine.registry
        requests = CounterMetricFamily(
            "inference_requests",
            "Requests answered, by protocol and HTTP status (gRPC: the status it stands for).",
            labels=[*_MODEL, "protocol", "status"],
        )
        failures = CounterMetricFamily(
            "inference_failures", "Requests not answered, by reason.", labels=[*_MODEL, "reason"]
        )
        rows = CounterMetricFamily("inference_rows", "Rows predicted.", labels=_MODEL)
        batches = CounterMetricFamily("inference_batches", "Batches run.", labels=_MODEL)
        duration = HistogramMetricFamily(
            "inference_request_duration_seconds",
            "From the first byte of a request's body to its answer.",
            labels=_MODEL,
        )
        stages = HistogramMetricFamily(
            "inference_stage_duration_seconds",
            "Parts of it: decode, queue, compute, encode.",
            labels=[*_MODEL, "stage"],
        )
        batch_rows = HistogramMetricFamily("inference_batch_rows", "Rows per batch.", labels=_MODEL)
        for statistics in registry.statistics:
            labels = [statistics.model, statistics.version]
            for (protocol, status), count in statistics.requests.items():
                requests.add_metric([*labels, protocol, str(status)], count)
            for reason, count in statistics.failures.items():
                failures.add_metric([*labels, reason], count)
            rows.add_metric(labels, statistics.rows)
            batches.add_metric(labels, statistics.executions)
            _add(duration, labels, statistics.duration)
            _add(batch_rows, labels, statistics.batch_rows)
            for stage, histogram in statistics.stages.items():
                _add(stages, [*labels, stage], histogram)
        yield from (requests, failures, rows, batches, duration, stages, batch_rows)
        yield from self._gauges()
        yield from self._log_counters()

    def _gauges(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            "inference_model_loaded", "1 for each version that serves.", labels=_MODEL
        )
        queued = GaugeMetricFamily("inference_queue_rows", "Rows that wait.", labels=_MODEL)
        running = GaugeMetricFamily(
            "inference_running_batches", "Batches that are being run.", labels=_MODEL
        )
        base = GaugeMetricFamily(
            "inference_batch_base_seconds", "Learned cost of a run of any size.", labels=_MODEL
        )
        per_row = GaugeMetricFamily(
            "inference_batch_row_seconds", "Learned cost of one more row.", labels=_MODEL
        )
        opened = GaugeMetricFamily(
            "inference_model_requests_open", "Requests under way.", labels=_MODEL
        )
        limit = GaugeMetricFamily(
            "inference_model_requests_limit",
            "Requests that may be under way, so that none waits longer than its target.",
            labels=_MODEL,
        )
        for served in self._engine.registry.all_serving():
            labels = [served.name, served.version]
            opened.add_metric(labels, served.admission.open)
            limit.add_metric(labels, served.admission.limit)
            loaded.add_metric(labels, 1)
            queued.add_metric(labels, served.batcher.queued_rows)
            running.add_metric(labels, served.batcher.running_batches)
            base.add_metric(labels, served.batcher.durations.base)
            per_row.add_metric(labels, served.batcher.durations.per_row)
        yield from (loaded, queued, running, base, per_row, opened, limit)
        failed = GaugeMetricFamily(
            "inference_model_failed", "1 for each version that could not be loaded.", labels=_MODEL
        )
        for name, entry in self._engine.registry.entries.items():
            for version in entry.failures:
                failed.add_metric([name, version], 1)
        yield failed
        in_flight = GaugeMetricFamily("inference_requests_in_flight", "Requests under way.")
        in_flight.add_metric([], self._engine.in_flight)
        yield in_flight
        refused = CounterMetricFamily(
            "inference_refused", "Requests refused before a model was looked up, by reason.",
            labels=["reason"],
        )  # fmt: skip
        for reason, count in self._engine.outcomes.refused.items():
            refused.add_metric([reason], count)
        yield refused
        probes = CounterMetricFamily(
            "inference_probes", "Requests of `release verify`, which the others leave out.",
            labels=["status"],
        )  # fmt: skip
        for status, count in self._engine.outcomes.probes.items():
            probes.add_metric([str(status)], count)
        yield probes
        runtime = InfoMetricFamily("inference_runtime", "What runs the models.")
        runtime.add_metric([], {"onnxruntime": VERSION})
        yield runtime

    def _log_counters(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "inference_prediction_log_events",
            "Events of the prediction log: written, dropped (the buffer was full), failed.",
            labels=["outcome"],
        )
        counts = self._engine.outcomes.prediction_log.counts
        for outcome in ("written", "dropped", "failed"):
            events.add_metric([outcome], counts[outcome])
        yield events


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        so_far += count
        buckets.append((str(bound), so_far))
    family.add_metric(labels, buckets, histogram.total)
