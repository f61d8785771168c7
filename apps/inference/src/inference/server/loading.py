"""Loading the repository beside a running server."""

from __future__ import annotations

import asyncio
import contextlib

from inference.errors import ModelError
from inference.models.registry import Registry
from inference.server.readiness import may_come, report_models, what_is_missing
from inference.server.state import ServerState
from inference.settings import InferenceSettings
from kit.lifecycle.health import Health
from kit.lifecycle.termination import CANNOT_WORK
from kit.telemetry import logs

log = logs.get("inference.app")

_READABLE = "look whether the repository answers, and whether the pod's keys may list and read it"


async def keep_loading(registry: Registry, health: Health, settings: InferenceSettings) -> None:
    """Load the repository, then follow it if polling is on; readiness says how far it is.

    Where nobody loads again what is missing, the process ends: it would wait for ever.
    """
    pause = 0.2
    while True:
        try:
            await registry.load_all()
            break
        except Exception as error:  # whatever it is, a pod that silently never gets ready is worse
            expected = isinstance(error, ModelError)
            reason = str(error) if expected else f"{type(error).__name__}: {error}"
            health.wait_for("models", reason, fix=_READABLE)
            if not expected:
                log.warning("repository not read", next_try_seconds=pause, exc_info=error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 15.0)
    report_models(registry, health, settings)
    missing = what_is_missing(registry, settings)
    if missing is not None and not may_come(settings):
        # From S3 the next process may get what this one did not; a folder holds what it holds.
        remote = settings.model_repository.startswith("s3://")
        health.give_up("models", *missing, code=1 if remote else CANNOT_WORK)
        return
    while settings.repository_poll_seconds > 0:
        await asyncio.sleep(settings.repository_poll_seconds)
        try:
            await registry.refresh()
        except Exception as error:  # the next look may be luckier; what serves goes on serving
            log.warning("repository not read", reason=f"{type(error).__name__}: {error}")
        report_models(registry, health, settings)


def start_loading(state: ServerState) -> None:
    """Have the server load its models once it runs, and release them when it stops."""
    registry, health, settings = state.registry, state.health, state.settings
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
        state.engine.close()

    state.startup.append(start)
    state.shutdown.append(stop)
