"""Whether the models that should be there are served, and what readiness says of it."""

from __future__ import annotations

from pathlib import Path

from inference.models.registry import Registry
from inference.settings import InferenceSettings
from kit.lifecycle.health import Health

_REPOSITORY = (
    "set INFERENCE_MODEL_REPOSITORY to a folder or s3:// prefix that holds "
    "<name>/<version>/model.onnx, or have a model fetched into it (`modelFetch`)"
)
_MODEL = "publish a model that loads (`inference check` says what is wrong), and set its version"


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
        return None if may_come(settings) else nothing
    missing = [
        f"model {name!r} is not served: " + ("; ".join(
            f"version {version}: {why}" for version, why in sorted(entry.failures.items())
        ) or f"{root} has none of that name, which INFERENCE_MODELS asks for")
        for name, entry in sorted(registry.entries.items())
        if entry.default is None and not entry.unloaded
    ]  # fmt: skip
    return ("; ".join(missing), _MODEL) if missing else None


def may_come(settings: InferenceSettings) -> bool:
    """Whether the repository is looked at again, by itself or because a caller says so."""
    return settings.repository_control or settings.repository_poll_seconds > 0
