"""Loading the repository beside a running server, and what readiness says of it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import ModelError
from inference.models.registry import Registry
from inference.settings import InferenceSettings
from kit.lifecycle.health import Health
from kit.lifecycle.termination import CANNOT_WORK
from kit.telemetry import logs

if TYPE_CHECKING:
    from inference.app import InferenceApp

log = logs.get("inference.app")


_REPOSITORY = (
    "set INFERENCE_MODEL_REPOSITORY to a folder or s3:// prefix that holds "
    "<name>/<version>/model.onnx, or have a model fetched into it (`modelFetch`)"
)
_MODEL = "publish a model that loads (`inference check` says what is wrong), and set its version"
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
    if missing is not None and not _may_come(settings):
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


def report_models(registry: Registry, health: Health, settings: InferenceSettings) -> None:
    """Not ready, and why, while a model that should be there has no version that serves."""
    missing = what_is_missing(registry, settings)
    if missing is None:
        health.ready("models")
    else:
        health.wait_for("models", *missing)


def what_is_missing(registry: Registry, settings: InferenceSettings) -> tuple[str, str] | None:
    """Why not every model that should be there has a version that serves, and the fix."""
    root = settings.model_repository
    if not root.startswith("s3://") and not registry.entries and not Path(root).is_dir():
        return f"INFERENCE_MODEL_REPOSITORY is {root!r}: there is no such folder", _REPOSITORY
    if not registry.entries:
        nothing = f"there is no model in {root}", _REPOSITORY
        return None if _may_come(settings) else nothing
    missing = [
        f"model {name!r} is not served: " + ("; ".join(
            f"version {version}: {why}" for version, why in sorted(entry.failures.items())
        ) or f"{root} has none of that name, which INFERENCE_MODELS asks for")
        for name, entry in sorted(registry.entries.items())
        if entry.default is None and not entry.unloaded
    ]  # fmt: skip
    return ("; ".join(missing), _MODEL) if missing else None


def _may_come(settings: InferenceSettings) -> bool:
    """Whether the repository is looked at again, by itself or because a caller says so."""
    return settings.repository_control or settings.repository_poll_seconds > 0


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
