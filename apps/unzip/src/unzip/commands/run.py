"""`unzip run`: everything that waits, once."""

from __future__ import annotations

from prometheus_client import push_to_gateway

from kit.telemetry import logs
from unzip.commands.common import DryRun, bucket_of, configured, guarded, stop_on_signals
from unzip.metrics import Metrics
from unzip.processing import service
from unzip.s3 import capabilities
from unzip.settings import UnzipSettings

log = logs.get("unzip")


def run(dry_run: DryRun = False) -> None:
    """Extract every archive that is waiting, deliver the announcements, then exit."""
    settings = configured()
    stop = stop_on_signals(settings)
    metrics = Metrics()
    store = bucket_of(settings, metrics=metrics)

    def work() -> int:
        with service.assembled(settings, store, stop, metrics) as ours:
            if dry_run:
                for archive in ours.waiting(service.Tally()):
                    log.info("would extract", key=archive.key, size=archive.size)
                return 0
            capabilities.check_conditional_writes(store, settings.state_prefix)
            try:
                tally = ours.sweep()
            finally:
                _push(settings, ours)
            log.info("done", **tally.log_fields())
        return 0

    guarded(settings, work)


def _push(settings: UnzipSettings, ours: service.Service) -> None:
    if not settings.pushgateway_url:
        return
    try:
        push_to_gateway(
            settings.pushgateway_url,
            job=settings.release_name or "unzip",
            registry=ours.metrics.registry,
            timeout=5,
        )
    except OSError as error:
        log.warning("metrics not pushed", error=str(error))
