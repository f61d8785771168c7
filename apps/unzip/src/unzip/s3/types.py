"""A bucket as the rest of the service sees it: its operations, conditions and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from unzip.zip.headers import Buffer


@dataclass(frozen=True, slots=True)
class Absent:
    """Write only where nothing is (``If-None-Match: *``)."""


@dataclass(frozen=True, slots=True)
class Matching:
    """Write only over this version (``If-Match``)."""

    etag: str


Condition = Absent | Matching | None


class Entry(NamedTuple):
    """One row of a listing."""

    key: str
    etag: str
    size: int
    modified: datetime


class Head(NamedTuple):
    """What an object is, without its bytes."""

    etag: str
    size: int
    modified: datetime
    content_type: str
    metadata: Mapping[str, str]


class Document(NamedTuple):
    """A small object; ``age`` is in seconds, by the server's clock alone."""

    body: bytes
    etag: str
    age: float


class Upload(NamedTuple):
    """A multipart upload that is neither completed nor aborted."""

    key: str
    id: str
    initiated: datetime


class Part(NamedTuple):
    """A part of a multipart upload: its ETag and, where we sent it, its CRC-32 in base64."""

    etag: str
    crc: str = ""


class Store(Protocol):
    """One bucket. ETags are kept as S3 writes them, quotes included."""

    @property
    def bucket(self) -> str: ...
    def head(self, key: str) -> Head: ...
    def read(self, key: str, start: int, end: int, etag: str) -> Buffer: ...
    def get(self, key: str) -> Document: ...
    def entries(self, prefix: str, start_after: str = "") -> Iterator[Entry]: ...
    def put(
        self,
        key: str,
        body: Buffer,
        content_type: str,
        metadata: Mapping[str, str],
        condition: Condition = None,
        *,
        crc: int | None = None,
    ) -> str: ...
    def delete(self, key: str, etag: str = "") -> None: ...
    def create_upload(
        self,
        key: str,
        content_type: str,
        metadata: Mapping[str, str],
        *,
        checksums: bool = True,
    ) -> str: ...
    def upload_part(self, key: str, upload: str, number: int, body: bytes | bytearray) -> Part: ...
    def copy_part(
        self,
        key: str,
        upload: str,
        number: int,
        *,
        source: str,
        etag: str,
        start: int,
        end: int,
    ) -> Part: ...
    def complete_upload(
        self,
        key: str,
        upload: str,
        parts: Sequence[Part],
        condition: Condition = None,
        *,
        crc: int | None = None,
    ) -> str: ...
    def abort_upload(self, key: str, upload: str) -> None: ...
    def list_uploads(self, prefix: str) -> Iterator[Upload]: ...
