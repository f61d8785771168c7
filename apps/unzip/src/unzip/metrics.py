"""What the service counts. Scraped from `unzip watch`, pushed at the end of `unzip run`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry with everything that `docs/unzip.md` lists."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common = {"namespace": "slipway", "subsystem": "unzip", "registry": self.registry}
        self.archives = Counter("archives", "Archives by outcome.", ["outcome"], **common)  # type: ignore[arg-type]
        self.refusals = Counter("refusals", "Refused archives by reason.", ["reason"], **common)  # type: ignore[arg-type]
        self.members = Counter("members", "Files published.", **common)  # type: ignore[arg-type]
        self.bytes = Counter("bytes", "Bytes, read from archives or published.", ["way"], **common)  # type: ignore[arg-type]
        self.retries = Counter("retries", "Requests repeated, by S3's code.", ["code"], **common)  # type: ignore[arg-type]
        self.deliveries = Counter(
            "deliveries",
            "Announcements by target and result.",
            ["target", "result"],
            **common,  # type: ignore[arg-type]
        )
        self.seconds = Histogram(
            "phase_seconds",
            "Seconds an archive spent in a phase.",
            ["phase"],
            buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600),
            **common,  # type: ignore[arg-type]
        )
        self.oldest = Gauge(
            "oldest_unprocessed_seconds",
            "Age of the oldest archive that is not closed, at the last listing.",
            **common,  # type: ignore[arg-type]
        )
        self.outbox = Gauge("outbox_depth", "Announcements not yet delivered.", **common)  # type: ignore[arg-type]
