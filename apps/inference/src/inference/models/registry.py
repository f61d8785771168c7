"""The models that are served: loaded, warmed, swapped and let go without a failed request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from inference.batching.time_slicer import TimeSlicer
from inference.errors import ModelError, NotFound, Unavailable
from inference.models.load import read
from inference.models.served import ServedModel
from inference.models.statistics import ModelStatistics
from inference.repository.layout import Found, Repository, newest, version_order
from inference.settings import InferenceSettings
from kit.memory.cgroup import usable_cpus
from kit.telemetry import logs

log = logs.get("inference.models")


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
        self.time_slicer = TimeSlicer()
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
        return ServedModel(loaded, found.stamp, statistics, settings, self.time_slicer)

    def _retire(self, served: ServedModel) -> None:
        task = asyncio.create_task(served.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
