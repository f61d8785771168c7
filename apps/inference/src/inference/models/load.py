"""Reads a version from its folder: checked, loaded and warmed up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import ModelError
from inference.models.images import fit_images, try_preparation
from inference.models.onnx_model import OnnxModel, check_manifest
from inference.models.postprocess_check import check_postprocess
from inference.models.samples import feeds_of
from inference.models.warmup import warm_up
from inference.repository import manifest as manifests
from inference.repository.layout import Found
from inference.repository.manifest import Manifest
from inference.row_independence.decision import Decision, decide
from inference.settings import InferenceSettings
from kit.transforms import Finish, Preparation, TransformError


@dataclass(slots=True)
class Loaded:
    """A version read from its folder, not served yet. Made off the event loop."""

    manifest: Manifest
    model: OnnxModel
    prepare: Preparation | None
    finish: Finish | None
    batching: Decision
    warnings: list[str]
    sha256: str
    max_batch_size: int


def read(folder: Path, found: Found, *, threads: int, settings: InferenceSettings) -> Loaded:
    """Read, check, load and warm a version; ModelError says what is wrong with it."""
    path = folder / manifests.MODEL_FILE
    digest = _sha256_of(path)
    described = _describe(folder, found)
    if described.sha256 not in (None, digest):
        raise ModelError(
            f"{manifests.MODEL_FILE} has sha256 {digest}, {manifests.FILE} says {described.sha256}"
        )
    for name, expected in described.data_files.items():
        if (found_there := _sha256_of(folder / name)) != expected:
            raise ModelError(f"{name} has sha256 {found_there}, {manifests.FILE} says {expected}")
    model = OnnxModel(
        path, threads=threads, name=found.name, run_memory_bytes=settings.run_memory_bytes
    )
    check_manifest(model, described)
    try:
        prepare = (
            Preparation(described.preprocess, max_pixels=settings.max_image_pixels)
            if described.preprocess
            else None
        )
        finish = Finish(described.postprocess, described.labels) if described.postprocess else None
    except TransformError as error:
        raise ModelError(f"{manifests.FILE}: {error}") from None
    samples = feeds_of(
        described,
        model.inputs,
        prepare,
        lambda spec, rows: fit_images(spec, rows, batched=model.has_row_dimension),
    )
    decision = decide(
        model, model.graph, described.batching, samples, row_dimension=model.has_row_dimension
    )
    if finish is not None:
        check_postprocess(described, finish, model.outputs)
    warnings = _contradictions(described, decision)
    if prepare is not None and len(model.inputs) == 1:
        try_preparation(prepare, model.inputs[0], batched=decision.batching)
    rows, wrong = warm_up(model, described, samples, batching=decision.batching, settings=settings)
    return Loaded(described, model, prepare, finish, decision, warnings + wrong, digest, rows)


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None


def metadata(loaded: Loaded) -> dict[str, Any]:
    """The protocol's model metadata without ``versions``, and what a caller needs to prepare."""
    described, model = loaded.manifest, loaded.model
    return {
        "name": described.name,
        "platform": "onnxruntime_onnx",
        "inputs": [spec.model_dump() for spec in model.inputs],
        "outputs": [spec.model_dump() for spec in model.outputs],
        "properties": {
            "labels": described.labels,
            "columns": described.columns,
            "preprocess": described.preprocess,
            "postprocess": described.postprocess,
            "sha256": loaded.sha256,
            "batching": {"enabled": loaded.batching.batching, "reason": loaded.batching.reason},
            "free_rank": [spec.name for spec in model.inputs if spec.free_rank],
        },
    }


def _describe(folder: Path, found: Found) -> Manifest:
    path = folder / manifests.FILE
    try:
        document = path.read_bytes()
    except FileNotFoundError:
        return Manifest(name=found.name, version=found.version)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    described = manifests.parse(document, where=manifests.FILE)
    if (described.name, described.version) != (found.name, found.version):
        raise ModelError(
            f"{manifests.FILE} says it is {described.name} {described.version}, but it lies in "
            f"{found.name}/{found.version}"
        )
    return described


def _contradictions(described: Manifest, decision: Decision) -> list[str]:
    """What ``model.json`` says of batching that is not so; ModelError where it insists on it."""
    if decision.forced:
        return [f"batching is {decision.reason}: wrong answers are possible"]
    if decision.batching or not described.batching.enabled:
        return []
    said = described.batching.model_fields_set if "batching" in described.model_fields_set else ()
    if described.batching.force or "enabled" in said:
        raise ModelError(f"model.json asks for batching, but {decision.reason}")
    if said:
        return [f"model.json has settings of batching, but it is not batched: {decision.reason}"]
    return []
