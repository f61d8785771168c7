"""How much memory extraction takes at most, and how to make it fit the container's limit."""

from __future__ import annotations

import math
from dataclasses import replace

from unzip.extract.options import AHEAD, Options

MIB = 1 << 20
PROGRAM_BYTES = 96 * MIB  # the interpreter, libraries and connections
_LEAST_BUFFER = 16 * MIB


class TooLittleMemoryError(ValueError):
    """The container's limit is below what the narrowest extraction takes."""


def reader_bytes(options: Options) -> int:
    """What one reader holds at most: the ranges asked for and in use, a member made and copied."""
    return (AHEAD + 1) * options.span_bytes + 2 * options.part_bytes


def most_bytes(options: Options) -> int:
    """The memory of a process without its archives' directories (``directory.most_bytes``)."""
    waiting = max(options.buffer_bytes, options.part_bytes)
    return PROGRAM_BYTES + options.readers * reader_bytes(options) + waiting + options.keep_bytes


def fitted(options: Options, limit: int | None) -> Options:
    """``options`` narrowed until they fit three quarters of ``limit`` bytes.

    What is left is the directories'. What spares work goes first: files kept in memory, then
    bytes that wait for their upload, then readers. TooLittleMemoryError if nothing is enough.
    """
    if limit is None:
        return options
    room = limit - limit // 4

    def excess() -> int:
        return max(0, most_bytes(options) - room)

    options = replace(options, keep_bytes=max(0, options.keep_bytes - excess()))
    least = min(options.buffer_bytes, max(_LEAST_BUFFER, options.part_bytes))
    options = replace(options, buffer_bytes=max(least, options.buffer_bytes - excess()))
    over = -(-excess() // reader_bytes(options))
    options = replace(options, readers=max(1, options.readers - over))
    if excess():
        needed = most_bytes(options) * 4 // 3
        raise TooLittleMemoryError(
            f"the container's memory limit is {limit / MIB:.0f} MiB and extraction needs "
            f"{math.ceil(needed / MIB)} MiB: raise the limit, or lower UNZIP_SPAN_BYTES "
            "or UNZIP_PART_BYTES"
        )
    return replace(options, directory_bytes=limit - most_bytes(options))
