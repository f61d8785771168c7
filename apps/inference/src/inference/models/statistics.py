"""Counts and durations of each model version: one set for Prometheus and the statistics extension.

They are plain numbers written by the event loop alone: a counter of the Prometheus client
takes a lock and a microsecond, which at ten thousand requests a second is a tenth of a core.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound; the last one counts what is larger than every bound."""

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self.counts)


@dataclass(slots=True)
class _Sum:
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def document(self) -> dict[str, int]:
        return {"count": self.count, "ns": int(self.seconds * 1e9)}


@dataclass(slots=True)
class ModelStatistics:
    """Of one version of one model, since the server started."""

    model: str
    version: str
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    duration: Histogram = field(default_factory=Histogram)
    stages: dict[str, Histogram] = field(
        default_factory=lambda: {
            stage: Histogram() for stage in ("decode", "prepare", "queue", "compute", "encode")
        }
    )
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    batches: dict[int, _Sum] = field(default_factory=dict)
    rows: int = 0
    executions: int = 0
    success: _Sum = field(default_factory=_Sum)
    fail: _Sum = field(default_factory=_Sum)
    last_inference: float = 0.0

    def batch(self, rows: int, seconds: float, requests: int) -> None:
        """A batch was run."""
        self.executions += 1
        self.batch_rows.observe(rows)
        if (per_size := self.batches.get(rows)) is None:
            per_size = self.batches[rows] = _Sum()
        per_size.add(seconds)

    def succeeded(
        self,
        protocol: str,
        rows: int,
        *,
        decode: float,
        queue: float,
        compute: float,
        encode: float,
        total: float,
    ) -> None:
        """A request was answered; durations in seconds."""
        self.requests[protocol, 200] += 1
        self.rows += rows
        stages = self.stages
        stages["decode"].observe(decode)
        stages["queue"].observe(queue)
        stages["compute"].observe(compute)
        stages["encode"].observe(encode)
        self.duration.observe(total)
        self.success.add(total)
        self.last_inference = time.time()

    def failed(self, protocol: str, status: int, reason: str, total: float) -> None:
        """A request was answered with an error."""
        self.requests[protocol, status] += 1
        self.failures[reason] += 1
        self.duration.observe(total)
        self.fail.add(total)

    def document(self) -> dict[str, Any]:
        """As in Triton's statistics extension."""
        zero = {"count": 0, "ns": 0}

        def stage(name: str) -> dict[str, int]:
            histogram = self.stages[name]
            return {"count": histogram.count, "ns": int(histogram.total * 1e9)}

        return {
            "name": self.model,
            "version": self.version,
            "last_inference": int(self.last_inference * 1000),
            "inference_count": self.rows,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.document(),
                "fail": self.fail.document(),
                "queue": stage("queue"),
                "compute_input": stage("decode"),
                "compute_infer": stage("compute"),
                "compute_output": stage("encode"),
                "cache_hit": zero,
                "cache_miss": zero,
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": zero,
                    "compute_infer": per_size.document(),
                    "compute_output": zero,
                }
                for rows, per_size in sorted(self.batches.items())
            ],
        }
