"""The manifest: what an archive became. Its presence is the publication."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unzip.directory import Directory, Member
from unzip.kinds import Kind

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
        "members": _Files(directory.members, types),
        "bytes": sum(member.size for member in directory.members if member.kind is Kind.FILE),
        "folders": sum(member.kind is Kind.FOLDER for member in directory.members),
        "skipped": [
            _skipped(member, kind)
            for member, kind in zip(directory.members, types, strict=True)
            if member.kind in (Kind.SYMBOLIC_LINK, Kind.DEVICE)
        ],
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def encoded(document: Mapping[str, Any]) -> Iterator[bytes]:
    """The document as JSON in UTF-8, member by member."""
    between = b"{"
    for key, value in document.items():
        yield between + _json(key) + b":"
        between = b","
        if isinstance(value, _Files):
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
class _Files:
    """The rows of the files, each made when it is asked for."""

    members: Sequence[Member]
    types: Sequence[str]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for member, kind in zip(self.members, self.types, strict=True):
            if member.kind is Kind.FILE:
                yield _file(member, kind)


def _charset(directory: Directory) -> dict[str, Any] | None:
    """How the names that do not say it were read, and what else a guess may be."""
    found = directory.charset
    if found is None:
        return None
    return {"charset": found.charset, "guessed": not found.sure, "or": list(found.others)}


def _skipped(member: Member, target: str) -> dict[str, Any]:
    row = {"path": member.path, "reason": str(member.kind), "size": member.size}
    return row | {"target": target} if member.kind is Kind.SYMBOLIC_LINK else row


def _file(member: Member, content_type: str) -> dict[str, Any]:
    return {
        "path": member.path,
        "size": member.size,
        "compressed": member.compressed,
        "crc32": f"{member.crc:08x}",
        "content_type": content_type,
        "name": member.name_source,
    }
