"""The manifest: what an archive became. Its presence is the publication."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unzip.zip.kinds import Kind
from unzip.zip.member import Directory, Member

VERSION = 1


def manifest(
    *,
    bucket: str,
    key: str,
    etag: str,
    size: int,
    directory: Directory,
    types: Sequence[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The document, for ``encoded``: the rows of its members are never there together.

    Sizes in bytes, CRCs as eight hex digits, durations in s. Everything but ``seconds`` follows
    from the archive alone, so a repeated extraction writes the same.
    """
    return {
        "version": VERSION,
        "source": {"bucket": bucket, "key": key, "etag": etag.strip('"'), "size": size},
        "empty": not directory.members,
        "zip64": directory.zip64,
        "name_charset": _charset(directory),
        "members": _Rows(directory.members, types, _file),
        "bytes": sum(member.size for member in directory.members if member.kind is Kind.FILE),
        "folders": sum(member.kind is Kind.FOLDER for member in directory.members),
        "skipped": _Rows(directory.members, types, _skipped),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def encoded(document: Mapping[str, Any]) -> Iterator[bytes]:
    """The document as JSON in UTF-8, member by member."""
    between = b"{"
    for key, value in document.items():
        yield between + _json(key) + b":"
        between = b","
        if isinstance(value, _Rows):
            yield b"["
            for number, row in enumerate(value):
                yield (b"," if number else b"") + _json(row)
            yield b"]"
        else:
            yield _json(value)
    yield b"}"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that ``row`` makes of some members, each made when it is asked for."""

    members: Sequence[Member]
    types: Sequence[str]
    row: Callable[[Member, str], dict[str, Any] | None]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for member, kind in zip(self.members, self.types, strict=True):
            row = self.row(member, kind)
            if row is not None:
                yield row


def _charset(directory: Directory) -> dict[str, Any] | None:
    """How the names that do not say it were read, and what else a guess may be."""
    found = directory.charset
    if found is None:
        return None
    return {"charset": found.charset, "guessed": not found.sure, "or": list(found.others)}


def _skipped(member: Member, target: str) -> dict[str, Any] | None:
    if member.kind not in (Kind.SYMBOLIC_LINK, Kind.DEVICE):
        return None
    row = {"path": member.path, "reason": str(member.kind), "size": member.size}
    return row | {"target": target} if member.kind is Kind.SYMBOLIC_LINK else row


def _file(member: Member, content_type: str) -> dict[str, Any] | None:
    if member.kind is not Kind.FILE:
        return None
    return {
        "path": member.path,
        "size": member.size,
        "compressed": member.compressed,
        "crc32": f"{member.crc:08x}",
        "content_type": content_type,
        "name": member.name_source,
    }
