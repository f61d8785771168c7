"""A member of an archive as its central directory describes it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from unzip.zip.charsets import Decision
from unzip.zip.kinds import Kind


class Member(NamedTuple):
    """One entry of the directory. Offsets and sizes in bytes; ``end`` is where the next begins.

    A hundred thousand of them may have names of a thousand bytes, so the bytes are kept once:
    ``utf8`` is the path. Where the name is written otherwise, ``written`` is the number of those
    bytes (two bytes) and their BLAKE2b; else it is empty.
    """

    utf8: bytes
    written: bytes
    name_source: str
    kind: Kind
    method: int
    flags: int
    crc: int
    compressed: int
    size: int
    offset: int
    end: int

    @property
    def path(self) -> str:
        """Where the member goes below ``result/``."""
        return self.utf8.decode()

    def is_named(self, raw: bytes) -> bool:
        """Whether the directory writes the name with these bytes."""
        return (written_name(raw) == self.written) if self.written else raw == self.utf8

    @property
    def raw_length(self) -> int:
        """The bytes of the name as the directory writes it."""
        return int.from_bytes(self.written[:2], "big") if self.written else len(self.utf8)

    @property
    def reads_as_utf8(self) -> bool:
        """Whether the name is the same with the UTF-8 flag and without it."""
        return self.name_source in ("ascii", "utf-8", "utf-8-flag")

    @property
    def holds_nothing(self) -> bool:
        """Whether this is a folder without a byte of data, whatever its size is said to be."""
        return self.kind is Kind.FOLDER and not self.compressed


class Directory(NamedTuple):
    """All members in the order of their data, and the archive's comment.

    ``charset`` is that of the names that do not say theirs, if there are any.
    """

    members: list[Member]
    comment: bytes
    zip64: bool
    charset: Decision | None = None


def written_name(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + hashlib.blake2b(raw, digest_size=16).digest()
