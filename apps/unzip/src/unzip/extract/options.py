"""How wide extraction works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

AHEAD = 3  # ranges of a large member that are asked for ahead


@dataclass(frozen=True, slots=True)
class Options:
    """How wide the work is; ``memory.most_bytes`` says how much memory that takes.

    With ``signing_block`` an Android package's block of signatures is accepted.
    Names that do not say theirs are in one of ``name_charsets``; without any, evidence decides.
    ``copies_rightly`` is asked before a stored member is copied by S3 itself.
    """

    readers: int = 3
    writers: int = 24
    span_bytes: int = 4 << 20
    part_bytes: int = 8 << 20
    buffer_bytes: int = 32 << 20
    keep_bytes: int = 48 << 20
    directory_bytes: int = 1 << 30
    signing_block: bool = False
    name_charsets: tuple[str, ...] = ()
    copies_rightly: Callable[[], bool] = lambda: False
