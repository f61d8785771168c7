"""What an archive holds, in a sentence or two for whoever extracts it by hand."""

from __future__ import annotations

from collections import Counter

from unzip.zip.charsets import Decision
from unzip.zip.kinds import Kind
from unzip.zip.member import Directory

_SKIPPED = {Kind.SYMBOLIC_LINK: "symbolic link", Kind.DEVICE: "device"}


def contents(directory: Directory) -> str:
    """Files and their bytes, and what is left out."""
    counts = Counter(member.kind for member in directory.members)
    size = sum(member.size for member in directory.members if member.kind is Kind.FILE)
    text = f"{_counted(counts[Kind.FILE], 'file')}, {_counted(size, 'byte')}"
    skipped = [_counted(counts[kind], noun) for kind, noun in _SKIPPED.items() if counts[kind]]
    return f"{text} (left out: {', '.join(skipped)})" if skipped else text


def guess(charset: Decision | None) -> str:
    """How names were read where that is a guess, and what to do about it; else ""."""
    if charset is None or charset.sure:
        return ""
    others = f" (or {', '.join(charset.others)})" if charset.others else ""
    return (
        f"names that do not say their charset were read as {charset.charset}{others}: a guess; "
        "where it is wrong, set UNZIP_NAME_CHARSETS"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
