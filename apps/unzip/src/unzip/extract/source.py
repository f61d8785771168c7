"""One version of an archive, which every read of it is pinned to."""

from __future__ import annotations

from dataclasses import dataclass

from unzip.s3.errors import Conflict, Missing
from unzip.s3.types import Store
from unzip.zip.headers import Buffer

SOURCE_TAG = "slipway-source"
MANIFEST = "_manifest.json"


class Replaced(Exception):  # noqa: N818 - a fact about the archive
    """The archive is no longer the version this job began with."""


@dataclass(frozen=True, slots=True)
class Source:
    """One version of an archive: ``etag`` with its quotes, ``size`` in bytes."""

    store: Store
    key: str
    etag: str
    size: int

    def read(self, start: int, end: int) -> Buffer:
        """Bytes [start, end), or Replaced."""
        try:
            return self.store.read(self.key, start, end, self.etag)
        except (Conflict, Missing) as error:
            raise Replaced(f"{self.key} is no longer {self.etag}: {error}") from error

    @property
    def tag(self) -> str:
        """What marks the objects made from this version."""
        return self.etag.strip('"')
