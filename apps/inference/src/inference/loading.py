"""Loading the repository beside a running server, and what readiness says of it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from inference.errors import ModelError
from inference.models import Registry
from inference.settings import InferenceSettings
from kit import logs
from kit.health import Health

if TYPE_CHECKING:
    from inference.app import InferenceApp

log = logs.get("inference.app")


async def keep_loading(registry: Registry, health: Health, settings: InferenceSettings) -> None:
    """Load the repository, then follow it if polling is on; readiness says how far it is."""
    pause = 0.2
    while True:
        try:
            await registry.load_all()
            break
        except Exception as error:  # whatever it is, a pod that silently never gets ready is worse
            expected = isinstance(error, ModelError)
            reason = str(error) if expected else f"{type(error).__name__}: {error}"
            health.wait_for("models", reason)
            log.warning(
                "repository not read",
                reason=reason,
                next_try_seconds=pause,
                exc_info=None if expected else error,
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, 15.0)
    report_models(registry, health, settings)
    while settings.repository_poll_seconds > 0:
        await asyncio.sleep(settings.repository_poll_seconds)
        try:
            await registry.refresh()
        except Exception as error:  # the next look may be luckier; what serves goes on serving
            log.warning("repository not read", reason=f"{type(error).__name__}: {error}")
        report_models(registry, health, settings)


def report_models(registry: Registry, health: Health, settings: InferenceSettings) -> None:
    """Not ready, and why, while a model that should be there has no version that serves."""
    missing = {
        name: "; ".join(f"{version}: {why}" for version, why in sorted(entry.failures.items()))
        for name, entry in registry.entries.items()
        if entry.default is None and not entry.unloaded
    }
    may_come = settings.repository_control or settings.repository_poll_seconds > 0
    if missing:
        health.wait_for("models", str(missing))
    elif not registry.entries and not may_come:
        health.wait_for("models", f"there is no model in {settings.model_repository}")
    else:
        health.ready("models")


def start_loading(
    app: InferenceApp, registry: Registry, health: Health, settings: InferenceSettings
) -> None:
    """Have the application load its models once it runs, and let go of them when it stops."""
    health.wait_for("models", "loading")
    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        tasks.append(asyncio.create_task(keep_loading(registry, health, settings)))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await registry.close()
        app.engine.close()

    app.startup.append(start)
    app.shutdown.append(stop)
