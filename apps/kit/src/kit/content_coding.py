"""Bodies with a Content-Encoding (RFC 9110, 8.4): undone within a bound. Pure."""

from __future__ import annotations

import zlib

MOST_CODINGS = 2
MOST_UNPACKED = 1032
"""Bytes that deflate makes of one at most."""


class UnknownCodingError(ValueError):
    """A Content-Encoding that is not undone here."""


class BadCodedBodyError(ValueError):
    """A body that is not what its Content-Encoding says."""


class UnpackedTooLargeError(ValueError):
    """A body that is small as it came and too large without its coding."""


def codings(encoding: str) -> list[str]:
    """What was done to a body, the last first; UnknownCodingError names one that is not known.

    The names are in any case, and ``x-gzip`` is gzip.
    """
    names = [name.strip().lower() for name in encoding.split(",")]
    found = [name for name in names if name not in ("", "identity")]
    for name in found:
        if name not in ("gzip", "x-gzip", "deflate"):
            raise UnknownCodingError(
                f"Content-Encoding {name!r} is not known: send gzip, deflate or none"
            )
    if len(found) > MOST_CODINGS:
        raise UnknownCodingError(
            f"Content-Encoding names {len(found)} codings: at most {MOST_CODINGS} are undone"
        )
    return found[::-1]


def unpack(body: bytes, coding: str, limit: int) -> bytes:
    """A gzip or deflate body, never more than ``limit`` bytes of it in memory."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    try:
        plain = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadCodedBodyError(f"body is no {coding}: {error}") from None
    if len(plain) > limit:
        raise UnpackedTooLargeError(f"body unpacks to more than {limit} bytes: that is the limit")
    if not decompressor.eof or decompressor.unused_data:
        raise BadCodedBodyError(f"{coding} body is cut short or has something after its end")
    return plain
