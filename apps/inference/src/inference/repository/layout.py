"""A repository of models: ``<name>/<version>/model.onnx`` in a folder or in S3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from obstore.exceptions import BaseError

from inference.errors import ModelError, RepositoryError
from inference.repository import fetch, manifest

NAME = re.compile(manifest.NAME)


@dataclass(frozen=True, slots=True)
class Found:
    """A version in the repository. ``stamp`` changes when its files do."""

    name: str
    version: str
    stamp: str


class Repository(Protocol):
    """Where models come from."""

    async def scan(self, name: str = "") -> list[Found]:
        """Every version there, or those of ``name``; RepositoryError where it cannot be read."""
        ...

    async def folder_of(self, found: Found) -> Path:
        """A folder that holds the version's files now; ModelError where there is none."""
        ...


class FolderRepository:
    """Models in a folder, such as an image or an init container leaves."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def scan(self, name: str = "") -> list[Found]:
        """See :class:`Repository`. A folder that is not there holds nothing yet."""
        found: list[Found] = []
        try:
            for model in sorted(self.root.iterdir()):
                if not NAME.match(model.name) or (name and model.name != name):
                    continue
                found += [
                    Found(model.name, folder.name, _stamp(folder))
                    for folder in sorted(model.iterdir() if model.is_dir() else ())
                    if folder.is_dir() and NAME.match(folder.name)
                ]
        except FileNotFoundError:
            return found
        except OSError as error:
            raise RepositoryError(f"model repository {self.root}: {error}") from None
        return found

    async def folder_of(self, found: Found) -> Path:
        """See :class:`Repository`."""
        return self.root / found.name / found.version


class S3Repository:
    """Models in S3; each version is fetched into a cache folder when it is loaded."""

    def __init__(self, uri: str, cache: Path, *, timeout: float) -> None:
        self.uri = uri.rstrip("/")
        self.cache = cache
        self.timeout = timeout

    async def scan(self, name: str = "") -> list[Found]:
        """See :class:`Repository`. A version counts once its ``model.json`` is there."""
        stamps: dict[tuple[str, str], str] = {}
        try:
            store = fetch.open_store(self.uri)
            async for page in store.list(prefix=name or None):
                for entry in page:
                    match entry["path"].split("/"):
                        case [model, version, manifest.FILE] if NAME.match(model) and NAME.match(
                            version
                        ):
                            stamps[model, version] = str(entry["e_tag"])
        except BaseError as error:
            raise RepositoryError(f"model repository {self.uri}: {error}") from None
        return [
            Found(model, version, stamp)
            for (model, version), stamp in sorted(stamps.items())
            if not name or model == name
        ]

    async def folder_of(self, found: Found) -> Path:
        """See :class:`Repository`."""
        fetched = await fetch.fetch(
            f"{self.uri}/{found.name}/{found.version}", self.cache, time_limit=self.timeout
        )
        if (fetched.name, fetched.version) != (found.name, found.version):
            raise ModelError(
                f"{self.uri}/{found.name}/{found.version}: model.json says it is "
                f"{fetched.name} {fetched.version}"
            )
        return fetched.folder


def open_repository(uri: str, cache: Path, *, timeout: float) -> Repository:
    """The repository behind a setting: ``s3://...`` or a folder."""
    if uri.startswith("s3://"):
        return S3Repository(uri, cache, timeout=timeout)
    return FolderRepository(Path(uri))


def newest(versions: list[str]) -> str:
    """The largest number; where no version is a number, the last in the alphabet."""
    return max(versions, key=version_order)


def version_order(version: str) -> tuple[int, int, str]:
    """Sorts numbers by value and after everything else: "9" before "10"."""
    return (1, int(version), "") if version.isdecimal() else (0, 0, version)


def _stamp(folder: Path) -> str:
    marks = []
    for name in (manifest.MODEL_FILE, manifest.FILE):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        marks.append(f"{name}:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}")
    return " ".join(marks)
