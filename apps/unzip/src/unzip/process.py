"""One archive from beginning to end, without the ledger."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from unzip.directory import Limits
from unzip.extract import MANIFEST, SOURCE_TAG, Extractor, Source
from unzip.manifest import manifest
from unzip.store import Store


@dataclass(slots=True)
class Clock:
    """Seconds by phase, for manifest and metrics."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        """The time since the last lap was spent on ``name``."""
        now = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def nothing() -> None:
    """A check that never objects."""


def extract_once(
    extractor: Extractor, source: Source, target: Store, prefix: str, limits: Limits, *, bucket: str
) -> dict[str, Any]:
    """Extract ``source`` to ``prefix`` of ``target``; the manifest as written. Refused if bad."""
    clock = Clock()
    directory = extractor.read_directory(source, limits)
    types = extractor.verify(source, directory.members, check=nothing)
    clock.lap("verify")
    existing = {entry.key: entry.etag for entry in target.entries(prefix)}
    extractor.publish(
        source,
        directory.members,
        types,
        target,
        prefix,
        check=nothing,
        fenced=nothing,
        existing=existing,
    )
    clock.lap("publish")
    document = manifest(
        bucket=bucket,
        key=source.key,
        etag=source.etag,
        size=source.size,
        directory=directory,
        types=types,
        seconds=clock.seconds,
    )
    body = json.dumps(document, ensure_ascii=False).encode()
    target.put(prefix + MANIFEST, body, "application/json", {SOURCE_TAG: source.tag})
    return document
