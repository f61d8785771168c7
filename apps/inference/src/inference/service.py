"""Puts the parts together and runs them."""

from __future__ import annotations

from pathlib import Path

from kit import logs, server
from kit.health import Health
from kit.probes import Probes
from prometheus_client import CollectorRegistry

from inference.app import InferenceApp, start_loading
from inference.engine import Engine
from inference.models import Registry
from inference.repository import open_repository
from inference.settings import InferenceSettings


def create_app(settings: InferenceSettings, health: Health) -> tuple[Probes, InferenceApp]:
    """The application with its probes, and the application itself."""
    repository = open_repository(
        settings.model_repository,
        Path(settings.cache_folder),
        timeout=settings.fetch_timeout_seconds,
    )
    registry = Registry(repository, settings)
    engine = Engine(registry, settings)
    app = InferenceApp(engine, registry, health, settings)
    start_loading(app, registry, health, settings)
    return Probes(app, health, CollectorRegistry()), app


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
    app, _ = create_app(settings, health)
    server.serve(app, settings, health)
