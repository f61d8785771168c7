"""Puts the parts together and runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from inference.app import InferenceApp
from inference.engine.engine import Engine
from inference.engine.metrics import InferenceCollector
from inference.fast_infer import server_protocol
from inference.models.registry import Registry
from inference.prediction_log import open_log
from inference.protocols.grpc.server import GrpcServer
from inference.repository.layout import Repository, open_repository
from inference.server.loading import start_loading
from inference.settings import InferenceSettings
from kit.http import server
from kit.http.probes import Probes
from kit.lifecycle.health import Health
from kit.telemetry import logs
from kit.telemetry.spans import configure


def create_app(settings: InferenceSettings, health: Health) -> tuple[Probes, InferenceApp]:
    """The application with its probes, and the application itself."""
    registry = Registry(_repository(settings), settings)
    prediction_log = open_log(settings)
    spans = configure(
        "inference", release=settings.release_name, pod=settings.pod_name,
        revision=settings.source_revision,
    )  # fmt: skip
    engine = Engine(registry, settings, prediction_log, spans)
    app = InferenceApp(engine, registry, health, settings)
    start_loading(app, registry, health, settings)
    if settings.grpc_enabled:
        grpc_server = GrpcServer(app, address=f"{settings.host}:{settings.grpc_port}")
        app.grpc = grpc_server
        app.startup.append(grpc_server.start)
        app.shutdown.append(grpc_server.stop)
    metrics = CollectorRegistry()
    metrics.register(InferenceCollector(engine, prediction_log))
    ProcessCollector(registry=metrics)
    PlatformCollector(registry=metrics)
    return Probes(app, health, metrics), app


async def check(settings: InferenceSettings) -> list[dict[str, Any]]:
    """Load everything once; the repository index says how that went.

    What serves has ``batching`` (whether, and why) and ``warnings`` beside it.
    """
    registry = Registry(_repository(settings), settings)
    try:
        await registry.load_all()
        rows: list[dict[str, Any]] = [dict(row) for row in await registry.index()]
        for row in rows:
            entry = registry.entries.get(row["name"])
            served = entry.serving.get(row["version"]) if entry is not None else None
            if served is not None:
                row["batching"] = served.metadata_document["properties"]["batching"]
                row["warnings"] = served.warnings
        return rows
    finally:
        await registry.close()


def _repository(settings: InferenceSettings) -> Repository:
    return open_repository(
        settings.model_repository,
        Path(settings.cache_folder),
        timeout=settings.fetch_timeout_seconds,
    )


def run(settings: InferenceSettings) -> None:
    """Serve until SIGTERM."""
    logs.configure(
        level=settings.log_level,
        service="inference",
        pod=settings.pod_name,
        release=settings.release_name,
        revision=settings.source_revision,
    )
    health = Health()
    app, inner = create_app(settings, health)
    server.serve(app, settings, health, http=server_protocol(inner))
