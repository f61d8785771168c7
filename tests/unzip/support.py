"""What the tests of the unzip service share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unzip.directory import Buffer, Kind, Limits
from unzip.extract import Extractor, Options, Source
from unzip.refusals import Reason, Refused

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
