"""What the tests of the unzip service share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unzip.announce.outbox import Refusal, Target
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.extract.source import MANIFEST, Source
from unzip.metrics import Metrics
from unzip.processing.service import Service
from unzip.processing.stop import Stop
from unzip.refusals import Reason, Refused
from unzip.s3.errors import Missing
from unzip.s3.types import Document, Entry, Store, Upload
from unzip.settings import UnzipSettings
from unzip.zip.headers import Buffer
from unzip.zip.kinds import Kind
from unzip.zip.limits import Limits

OPTIONS = Options(readers=2, writers=8)


@dataclass(frozen=True, slots=True)
class InMemory(Source):
    """An archive that needs no S3: for what is decided by its bytes alone."""

    data: bytes = b""

    def read(self, start: int, end: int) -> Buffer:
        assert 0 <= start <= end <= self.size
        return memoryview(self.data)[start:end]


def in_memory(data: bytes) -> InMemory:
    store: Any = None
    return InMemory(store, "user/result.zip", '"etag"', len(data), data)


def verdict(
    extractor: Extractor, data: bytes, limits: Limits | None = None
) -> Mapping[str, tuple[int, int]] | Reason:
    """Path to size and CRC of each file, all proved; or the reason of the refusal."""
    source = in_memory(data)
    try:
        directory = extractor.read_directory(source, limits or Limits())
        extractor.verify(source, directory.members, check=lambda: None)
    except Refused as error:
        return error.reason
    return {
        member.path: (member.size, member.crc)
        for member in directory.members
        if member.kind is Kind.FILE
    }


class Recorder:
    """A target that counts what it is told; ``down`` makes it refuse."""

    def __init__(self, name: str = "backend", *, idempotent: bool = True) -> None:
        self.name = name
        self.idempotent = idempotent
        self.events: list[dict[str, Any]] = []
        self.down: Refusal | None = None

    def send(self, event: dict[str, Any]) -> None:
        if self.down is not None:
            raise self.down
        self.events.append(event)


def settings_for(bucket: str, **changes: Any) -> UnzipSettings:
    values: dict[str, Any] = {
        "bucket": bucket,
        "archives_at_once": 1,
        "request_attempts": 3,
        "request_patience_seconds": 5,
    }
    return UnzipSettings(**(values | changes))


def service_on(
    store: Store,
    extractor: Extractor,
    *targets: Target,
    stop: Stop | None = None,
    **changes: Any,
) -> Service:
    return Service(
        settings_for(store.bucket, **changes),
        store,
        extractor,
        list(targets),
        metrics=Metrics(),
        stop=stop or Stop(),
    )


def put(store: Store, key: str, data: bytes) -> str:
    return store.put(key, data, "application/zip", {})


def files_below(store: Store, prefix: str) -> dict[str, bytes]:
    """Every object below ``prefix`` but the manifest, by path."""
    return {
        entry.key.removeprefix(prefix): store.get(entry.key).body
        for entry in store.entries(prefix)
        if entry.key != prefix + MANIFEST
    }


def manifest_of(store: Store, prefix: str) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(store.get(prefix + MANIFEST).body)
    except Missing:
        return None
    del document["seconds"]  # the only part that differs between two runs
    return document


class Killed(BaseException):
    """The process is dead from here on."""


class Mortal:
    """A store, and whatever else leaves the process, that dies at the n-th call.

    Before the call (``before``), or after S3 has done it but before we hear so. Once dead, every
    call of every thread dies: nothing is cleaned up.
    """

    def __init__(self, store: Store, at: int = 0, *, before: bool = True) -> None:
        self._store = store
        self._at = at
        self._before = before
        self._lock = threading.Lock()
        self.dead = False
        self.calls: list[str] = []

    @property
    def bucket(self) -> str:
        return self._store.bucket

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        with self._lock:
            if self.dead:
                raise Killed
            self.calls.append(name)
            hit = len(self.calls) == self._at
            if hit:
                self.dead = True
        if hit and self._before:
            raise Killed
        try:
            result = call()
        finally:
            if hit:
                raise Killed
        if self.dead:
            raise Killed
        return result

    def entries(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        yield from self.step(
            f"entries {prefix}", lambda: list(self._store.entries(prefix, start_after))
        )

    def list_uploads(self, prefix: str) -> Iterator[Upload]:
        yield from self.step(
            f"list_uploads {prefix}", lambda: list(self._store.list_uploads(prefix))
        )

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *args, **kwargs: self.step(
            f"{name} {args[0]}", lambda: method(*args, **kwargs)
        )


class Later:
    """The same store ``seconds`` later: every object is that much older by the server's clock."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds

    def get(self, key: str) -> Document:
        document = self._store.get(key)
        return document._replace(age=document.age + self._seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
