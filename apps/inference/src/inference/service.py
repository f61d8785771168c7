"""Puts the parts together and runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from inference.app import InferenceApp
from inference.engine.engine import Engine
from inference.engine.metrics import InferenceCollector
from inference.engine.outcomes import Outcomes
from inference.fast_infer import server_protocol
from inference.models.registry import Registry
from inference.prediction_log import open_log
from inference.protocols.grpc.server import GrpcServer
from inference.repository.layout import Repository, open_repository
from inference.server.loading import start_loading
from inference.server.state import ServerState
from inference.settings import InferenceSettings
from kit.http import server
from kit.http.probes import Probes
from kit.lifecycle.health import Health
from kit.telemetry import logs
from kit.telemetry.spans import configure


@dataclass(frozen=True, slots=True)
class Service:
    """The server put together: what is served over HTTP and, if it is enabled, over gRPC."""

    app: Probes
    state: ServerState
    grpc: GrpcServer | None


def create_service(settings: InferenceSettings, health: Health) -> Service:
    """The server for these settings, not started yet."""
    registry = Registry(_repository(settings), settings)
    spans = configure(
        "inference", release=settings.release_name, pod=settings.pod_name,
        revision=settings.source_revision,
    )  # fmt: skip
    engine = Engine(registry, settings, Outcomes(open_log(settings), spans))
    state = ServerState(engine, registry, health, settings)
    start_loading(state)
    grpc_server: GrpcServer | None = None
    if settings.grpc_enabled:
        grpc_server = GrpcServer(state, address=f"{settings.host}:{settings.grpc_port}")
        state.startup.append(grpc_server.start)
        state.shutdown.append(grpc_server.stop)
    metrics = CollectorRegistry()
    metrics.register(InferenceCollector(engine))
    ProcessCollector(registry=metrics)
    PlatformCollector(registry=metrics)
    return Service(Probes(InferenceApp(state), health, metrics), state, grpc_server)


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
    service = create_service(settings, health)
    server.serve(service.app, settings, health, http=server_protocol(service.state))
