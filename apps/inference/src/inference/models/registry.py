"""The models that are served: loaded, warmed, swapped and let go without a failed request."""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import orjson
from PIL import Image

from inference.batching.batcher import SHORT_RUN, Batcher
from inference.batching.time_slicer import Turns
from inference.errors import (
    BadRequest,
    InferenceError,
    ModelError,
    NotFound,
    RunTooLarge,
    Unavailable,
)
from inference.models.onnx_model import OnnxModel, check_manifest
from inference.models.postprocess_check import check_postprocess
from inference.models.samples import feeds_of
from inference.models.statistics import ModelStatistics
from inference.repository import manifest as manifests
from inference.repository.layout import Found, Repository, newest, version_order
from inference.repository.manifest import Manifest, TensorSpec, suits
from inference.row_independence.decision import Decision, decide
from inference.settings import InferenceSettings
from kit.http.admission import Admission
from kit.memory.cgroup import usable_cpus
from kit.oip.datatypes import of_array
from kit.oip.non_finite import Policy
from kit.oip.tensors import Array
from kit.telemetry import logs
from kit.transforms import Finish, Preparation, TransformError

log = logs.get("inference.models")


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


class ServedModel:
    """One version of one model, and everything a request for it needs."""

    def __init__(
        self,
        loaded: Loaded,
        stamp: str,
        statistics: ModelStatistics,
        settings: InferenceSettings,
        turns: Turns,
    ) -> None:
        described, model = loaded.manifest, loaded.model
        batching = described.batching
        delay = (
            settings.max_queue_delay_ms
            if batching.max_queue_delay_ms is None
            else batching.max_queue_delay_ms
        )
        self.name = described.name
        self.version = described.version
        self.stamp = stamp
        self.manifest = described
        self.model = model
        self.prepare = loaded.prepare
        self.finish = loaded.finish
        self.statistics = statistics
        self.batched = loaded.batching.batching
        self.max_batch_size = loaded.max_batch_size
        self.inputs: dict[str, TensorSpec] = {spec.name: spec for spec in model.inputs}
        self.takes_images = loaded.prepare is not None and len(self.inputs) == 1
        self.output_names = model.output_names
        added = loaded.finish.outputs if loaded.finish is not None else ()
        self.outputs_known = frozenset((*model.output_names, *added))
        self.variable_shapes = any(size < 0 for spec in model.inputs for size in spec.shape[1:])
        # the batcher sets floor and ceiling, which are in rows
        self.admission = Admission(target=settings.target_wait_ms / 1000, floor=1, ceiling=1)
        self.batcher = Batcher(
            model,
            name=described.name,
            batching=loaded.batching.batching,
            max_batch_size=loaded.max_batch_size,
            max_queue_size=batching.max_queue_size or settings.max_queue_size,
            max_queue_delay=delay if delay == "auto" else delay / 1000,
            instances=batching.instances or settings.instances,
            observer=statistics,
            admission=self.admission,
            soon=turns.run_after,
            short_run=SHORT_RUN,
            larger_short_batches=batching.max_batch_size is None
            and loaded.max_batch_size == settings.max_batch_size,
        )
        self.header_lines = (
            f"x-slipway-model: {self.name}\r\nx-slipway-model-version: {self.version}\r\n"
        ).encode("latin-1", "replace")
        self.non_finite: Policy = settings.non_finite_outputs
        self.leases = 0
        self.released = asyncio.Event()
        self.released.set()
        self.warnings = loaded.warnings
        self.metadata_document = metadata(loaded)

    def lease(self) -> Self:
        """A request is about to use this version; it stays until :meth:`release`.

        Between looking it up and this nothing may be awaited.
        """
        self.leases += 1
        if self.leases == 1:
            self.released.clear()
        return self

    def release(self) -> None:
        """The request is over."""
        self.leases -= 1
        if self.leases == 0:
            self.released.set()

    async def retire(self) -> None:
        """Let every request that uses this version finish, then let go of its threads."""
        await self.released.wait()
        await self.batcher.close()


@dataclass(slots=True)
class Entry:
    """The versions of one model: those that serve, and why others do not."""

    serving: dict[str, ServedModel] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    failed_stamps: dict[str, str] = field(default_factory=dict)
    default: ServedModel | None = None
    unloaded: bool = False


class Registry:
    """All models by name. Changes happen one at a time per model, look-ups at any time."""

    def __init__(self, repository: Repository, settings: InferenceSettings) -> None:
        self._repository = repository
        self._settings = settings
        self.turns = Turns()
        self._threads = settings.threads or usable_cpus()
        self._entries: dict[str, Entry] = {}
        self._statistics: dict[tuple[str, str], ModelStatistics] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self.generation = 0
        self.complete = False
        """Whether the repository was loaded once, whatever became of its models."""

    @property
    def statistics(self) -> Iterable[ModelStatistics]:
        """Of every version that was ever served by this process."""
        return self._statistics.values()

    @property
    def entries(self) -> dict[str, Entry]:
        """By name; for reading."""
        return self._entries

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """The version that answers; NotFound or Unavailable say what is wrong and what is there."""
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self._entries)) or "none"
            raise NotFound(f"model {name!r} is unknown; loaded models: {known}")
        served = entry.default if version is None else entry.serving.get(version)
        if served is not None:
            return served
        if version is not None and version in entry.failures:
            raise Unavailable(
                f"model {name!r} version {version!r} is not served: {entry.failures[version]}"
            )
        if version is not None and entry.serving:
            known = ", ".join(sorted(entry.serving, key=version_order))
            raise NotFound(f"model {name!r} has no version {version!r}; loaded versions: {known}")
        if entry.unloaded:
            raise NotFound(f"model {name!r} is unloaded")
        why = "; ".join(f"{number}: {text}" for number, text in sorted(entry.failures.items()))
        raise Unavailable(f"model {name!r} has no version that can be served ({why})")

    def only(self) -> ServedModel:
        """The model behind paths that name none: the default one or the only one."""
        if self._settings.default_model:
            return self.get(self._settings.default_model)
        serving = [entry.default for entry in self._entries.values() if entry.default]
        if len(serving) == 1:
            return serving[0]
        raise NotFound(
            f"{len(serving)} models are loaded: set INFERENCE_DEFAULT_MODEL to the one "
            "that this path should ask"
        )

    def all_serving(self) -> list[ServedModel]:
        """Every version that serves, by name and version."""
        return [
            entry.serving[version]
            for _, entry in sorted(self._entries.items())
            for version in sorted(entry.serving, key=version_order)
        ]

    async def load_all(self) -> None:
        """Load what the settings name, or everything there. Failures stay in the entries."""
        wanted = self._settings.models
        by_name: dict[str, list[Found]] = {name: [] for name in wanted}
        for found in await self._repository.scan():
            if not wanted or found.name in wanted:
                by_name.setdefault(found.name, []).append(found)
        for name, versions in by_name.items():
            async with self._lock(name):
                await self._update(name, versions)
        self.complete = True

    async def load(self, name: str) -> None:
        """Bring one model to what the repository says now.

        What serves goes on serving until its successor is warm, and beyond if that cannot be
        loaded: then ModelError says why. NotFound where the repository has no such model.
        """
        async with self._lock(name):
            versions = await self._repository.scan(name)
            if not versions:
                raise NotFound(f"model {name!r} is not in the repository")
            await self._update(name, versions)
            entry = self._entries[name]
            if entry.failures:
                raise ModelError(
                    "; ".join(
                        f"version {version}: {why}"
                        for version, why in sorted(entry.failures.items())
                    )
                )

    async def unload(self, name: str) -> None:
        """Stop serving a model; requests that use it are finished first."""
        async with self._lock(name):
            entry = self._entries.get(name)
            if entry is None:
                raise NotFound(f"model {name!r} is not loaded")
            gone = list(entry.serving.values())
            self._entries[name] = Entry(unloaded=True)
            self.generation += 1
            for served in gone:
                self._retire(served)

    async def refresh(self) -> None:
        """What polling does: load what is new or changed, keep what was unloaded that way."""
        by_name: dict[str, list[Found]] = {}
        for found in await self._repository.scan():
            if not self._settings.models or found.name in self._settings.models:
                by_name.setdefault(found.name, []).append(found)
        for name, versions in by_name.items():
            if (entry := self._entries.get(name)) is not None and entry.unloaded:
                continue
            async with self._lock(name):
                await self._update(name, versions, retry=False)

    async def index(self) -> list[dict[str, str]]:
        """The repository index: every version there or served, its state and reason."""
        there = {(found.name, found.version) for found in await self._repository.scan()}
        for name, entry in self._entries.items():
            there |= {(name, version) for version in entry.serving}
        rows = []
        for name, version in sorted(there, key=lambda pair: (pair[0], version_order(pair[1]))):
            entry = self._entries.get(name) or Entry()
            ready = version in entry.serving
            reason = entry.failures.get(version, "" if ready else "not loaded")
            rows.append(
                {
                    "name": name,
                    "version": version,
                    "state": "READY" if ready else "UNAVAILABLE",
                    "reason": reason,
                }
            )
        return rows

    async def close(self) -> None:
        """Finish what is under way and stop every thread."""
        for entry in self._entries.values():
            for served in entry.serving.values():
                self._retire(served)
        self._entries = {}
        await asyncio.gather(*self._retiring)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _update(self, name: str, versions: list[Found], *, retry: bool = True) -> None:
        """Make the entry what the repository says; without ``retry``, what failed and has not
        changed since is left alone: a look every few seconds must not fetch it every time.
        """
        old = self._entries.get(name, Entry())
        wanted = {found.version: found for found in versions}
        if self._settings.version_policy == "latest" and wanted:
            keep = {newest(list(wanted))} | ({self._settings.pinned_versions.get(name, "")})
            wanted = {version: found for version, found in wanted.items() if version in keep}
        entry = Entry()
        for version, found in sorted(wanted.items(), key=lambda pair: version_order(pair[0])):
            there = old.serving.get(version)
            if there is not None and there.stamp == found.stamp:
                entry.serving[version] = there
                continue
            if not retry and old.failed_stamps.get(version) == found.stamp:
                entry.failures[version] = old.failures[version]
                entry.failed_stamps[version] = found.stamp
                if there is not None:
                    entry.serving[version] = there
                continue
            try:
                entry.serving[version] = await self._serve(found)
            except ModelError as error:
                entry.failures[version] = str(error)
                entry.failed_stamps[version] = found.stamp
                log.error("model not loaded", model=name, version=version, reason=str(error))
                if there is not None:
                    entry.serving[version] = there
        if not entry.serving and old.serving:
            # an empty or broken repository takes nothing away from those who are served
            entry.serving = dict(old.serving)
        pinned = self._settings.pinned_versions.get(name)
        if pinned is not None and pinned not in wanted:
            entry.failures[pinned] = "pinned, but not in the repository"
            if pinned in old.serving:
                entry.serving[pinned] = old.serving[pinned]
        elif not wanted:
            entry.failures["any"] = "there is no version of it in the repository"
        if entry.serving:
            entry.default = entry.serving.get(pinned or newest(list(entry.serving)))
        self._entries[name] = entry
        self.generation += 1
        kept = set(map(id, entry.serving.values()))
        for served in old.serving.values():
            if id(served) not in kept:
                self._retire(served)

    async def _serve(self, found: Found) -> ServedModel:
        folder = await self._repository.folder_of(found)
        settings = self._settings
        loaded = await asyncio.to_thread(
            read, folder, found, threads=self._threads, settings=settings
        )
        statistics = self._statistics.setdefault(
            (found.name, found.version), ModelStatistics(found.name, found.version)
        )
        log.info(
            "model loaded",
            model=found.name,
            version=found.version,
            sha256=loaded.sha256,
            threads=self._threads,
            batching=loaded.batching.batching,
            batching_reason=loaded.batching.reason,
        )
        for warning in loaded.warnings:
            log.warning("model loaded, but", model=found.name, version=found.version, why=warning)
        return ServedModel(loaded, found.stamp, statistics, settings, self.turns)

    def _retire(self, served: ServedModel) -> None:
        task = asyncio.create_task(served.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


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
        _try_preparation(prepare, model.inputs[0], batched=decision.batching)
    rows, wrong = _warm(model, described, samples, batching=decision.batching, settings=settings)
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


def _warm(
    model: OnnxModel,
    described: Manifest,
    samples: list[dict[str, Array]],
    *,
    batching: bool,
    settings: InferenceSettings,
) -> tuple[int, list[str]]:
    """Run the model as it will be run, so that its first caller does not wait for that.

    With samples it must answer them, else ModelError. Without any the inputs are made up, and
    what is wrong with those says nothing of the model: then the warnings say so. Gives the rows
    of the largest batch, which is as large as the memory for runs allows, and the warnings.
    """
    for number, sample in enumerate(samples):
        for _ in range(settings.warmup_runs):
            try:
                model.run(None, sample)
            except InferenceError as error:
                raise ModelError(f"model.json: samples[{number}]: {error.message}") from None
    largest = described.batching.max_batch_size or settings.max_batch_size
    sizes = [largest] if samples else [1, largest]
    warnings: list[str] = []
    for rows in sizes if batching else sizes[:-1]:
        try:
            fits = _warm_rows(model, samples, rows, runs=settings.warmup_runs)
        except InferenceError as error:
            warnings.append(
                f"it was not warmed up: {rows} made-up rows fail ({error.message}); put "
                "samples into model.json"
            )
            break
        if fits < rows:
            warnings.append(
                f"its batches are of at most {fits} rows: {rows} need more memory than its runs "
                "may take (run_memory_bytes)"
            )
            largest = fits
    return largest, warnings


def _warm_rows(model: OnnxModel, samples: list[dict[str, Array]], rows: int, *, runs: int) -> int:
    """Run so many rows, or half as many until their memory is there; gives how many it were."""
    while True:
        feeds = (
            {name: np.repeat(values[:1], rows, axis=0) for name, values in samples[0].items()}
            if samples
            else model.sample(rows)
        )
        try:
            for _ in range(runs):
                model.run(None, feeds)
        except RunTooLarge:
            if rows == 1:
                raise
            rows //= 2
        else:
            return rows


def _try_preparation(prepare: Preparation, spec: TensorSpec, *, batched: bool) -> None:
    """ModelError where no image could ever become the model's input.

    Without a resize the caller's image decides the shape; then only the datatype can be known.
    """
    resized = prepare.resizes
    width = 8 if resized else max(1, abs(math.prod(spec.shape[1:])))
    try:
        rows = np.stack([prepare(_picture(width))])
        made = of_array(rows.dtype)
        if made != spec.datatype:
            raise ModelError(
                f"{manifests.FILE}: preprocess gives {made}, input {spec.name!r} is {spec.datatype}"
            )
        if resized:
            fit_images(spec, rows, batched=batched)
    except TransformError as error:
        if resized:
            raise ModelError(f"{manifests.FILE}: preprocess: {error}") from None
    except BadRequest as error:
        raise ModelError(f"{manifests.FILE}: preprocess: {error.message}") from None


def _picture(width: int) -> bytes:
    picture = io.BytesIO()
    Image.new("L", (width, 1)).save(picture, format="PNG")
    return picture.getvalue()


def fit_images(spec: TensorSpec, rows: Array, *, batched: bool) -> Array:
    """Prepared images as the model's input; BadRequest where they are not of its shape."""
    if suits(rows.shape, spec.shape):
        return rows
    if not batched:  # one image, which may be the whole input or lack dimensions of 1
        if suits(rows.shape[1:], spec.shape):
            return cast("Array", rows[0])
        wanted = [size if size >= 0 else 1 for size in spec.shape]
        if rows.size == math.prod(wanted):
            return rows.reshape(wanted)
    raise BadRequest(
        f"input {spec.name!r} has shape {spec.shape}, prepared images have {list(rows.shape)}"
    )


def json_bytes(document: Any) -> bytes:
    """JSON with numpy arrays in it."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
