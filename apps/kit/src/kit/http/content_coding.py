"""Bodies with a Content-Encoding (RFC 9110, 8.4): undone within a bound. Pure."""

from __future__ import annotations

import io
import zlib

MOST_CODINGS = 2
MOST_MEMBERS = 1024
"""Members of a gzip body at most: each costs time, however little is in it."""
MOST_UNPACKED = 1032
"""Bytes that deflate makes of one at most."""

_GZIP = b"\x1f\x8b"
_PIECE = 1 << 16
_NOT_THE_END = "{} body is cut short or has something after its end"
_TOO_LARGE = "body unpacks to more than {} bytes: that is the limit"


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
    """A gzip or deflate body, never more than ``limit`` bytes of it in memory.

    A gzip body may have several members, one after the other (RFC 1952, 2.2).
    """
    plain, rest = _unpack_one(body, coding, limit)
    if not rest:
        return plain
    if not body.startswith(_GZIP):
        raise BadCodedBodyError(_NOT_THE_END.format(coding))
    unpacked = io.BytesIO()  # it gives its bytes away, where joined parts are there twice
    unpacked.write(plain)
    del plain
    _unpack_members(memoryview(body)[len(body) - len(rest) :], unpacked, coding, limit)
    return unpacked.getvalue()


def _unpack_one(body: bytes, coding: str, limit: int) -> tuple[bytes, bytes]:
    """The first member, and what is behind it."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    try:
        plain = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadCodedBodyError(f"body is no {coding}: {error}") from None
    if len(plain) > limit:
        raise UnpackedTooLargeError(_TOO_LARGE.format(limit))
    if not decompressor.eof:
        raise BadCodedBodyError(_NOT_THE_END.format(coding))
    return plain, decompressor.unused_data


def _unpack_members(members: memoryview, unpacked: io.BytesIO, coding: str, limit: int) -> None:
    """The members behind the first one, in pieces: each end of one copies what is behind it."""
    decompressor = None
    at = count = 0
    while at < len(members):
        if decompressor is None:
            count += 1
            if members[at : at + 2] != _GZIP:
                raise BadCodedBodyError(_NOT_THE_END.format(coding))
            if count >= MOST_MEMBERS:
                raise BadCodedBodyError(
                    f"{coding} body has more than {MOST_MEMBERS} members: compress it as one"
                )
            decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
        piece = members[at : at + _PIECE]
        try:
            unpacked.write(decompressor.decompress(piece, limit + 1 - unpacked.tell()))
        except zlib.error as error:
            raise BadCodedBodyError(f"body is no {coding}: {error}") from None
        if unpacked.tell() > limit:
            raise UnpackedTooLargeError(_TOO_LARGE.format(limit))
        at += len(piece) - len(decompressor.unused_data)
        if decompressor.eof:
            decompressor = None
    if decompressor is not None:
        raise BadCodedBodyError(_NOT_THE_END.format(coding))
