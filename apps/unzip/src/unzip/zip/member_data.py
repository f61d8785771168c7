"""A member's bytes: local header, data, descriptor; everything must agree with the directory."""

from __future__ import annotations

import bz2
import importlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import NamedTuple

from unzip.refusals import Reason, Refused
from unzip.zip import headers, names
from unzip.zip.headers import Buffer
from unzip.zip.member import Member
from unzip.zip.signing_block import MAGIC

inflater: ModuleType
try:
    inflater = importlib.import_module("isal.isal_zlib")
except ImportError:  # platforms without its wheel: the same interface, two to three times slower
    inflater = zlib

_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_OUTPUT = 512 << 10
_INPUT = 128 << 10  # what the decoder did not use of its input is copied each time
_CORRUPT: tuple[type[Exception], ...] = (
    zlib.error,
    inflater.error,
    OSError,
    EOFError,
    ValueError,
)

crc32 = inflater.crc32


class LocalHeader(NamedTuple):
    """Where the data begins, in bytes from the member's start, and the header's flags."""

    data_start: int
    flags: int


def read_local(member: Member, header: Buffer) -> LocalHeader:
    """The local header, which must say what the directory says.

    ``header`` is the beginning of the member's extent, at least to the end of its local header.
    """
    view = memoryview(header)
    if len(view) < _LOCAL.size:
        raise _refused(Reason.OVERLAPPING_MEMBERS, "no room for a local header", member)
    signature, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = (
        _LOCAL.unpack_from(view)
    )
    if signature != headers.LOCAL_SIGNATURE:
        raise _refused(
            Reason.LOCAL_HEADER_CONTRADICTS, f"no local header at {member.offset}", member
        )
    start = _LOCAL.size + name_length + extra_length
    if len(view) < start:
        raise _refused(Reason.OVERLAPPING_MEMBERS, "a local header reaches over the next", member)
    raw = bytes(view[_LOCAL.size : _LOCAL.size + name_length])
    extra = headers.parse_extra(bytes(view[_LOCAL.size + name_length : start]), raw)
    size, compressed = headers.local_sizes(headers.zip64_field(extra), raw, size, compressed)
    if not member.is_named(raw):
        raise _refused(
            Reason.LOCAL_HEADER_CONTRADICTS, f"the local header's name is {raw!r}", member
        )
    pairs: list[tuple[str, object, object]] = [
        ("method", method, member.method),
        ("encryption", flags & headers.FLAG_ENCRYPTED, member.flags & headers.FLAG_ENCRYPTED),
    ]
    if (flags ^ member.flags) & headers.FLAG_UTF8 and not member.reads_as_utf8:
        pairs.append(("flags", flags & headers.FLAG_UTF8, member.flags & headers.FLAG_UTF8))
    unicode = names.unicode_path(raw, extra.get(headers.UNICODE_PATH))
    if unicode is not None and not names.same_path(unicode, member.path):
        pairs.append(("Unicode name", unicode, member.path))
    if flags & headers.FLAG_DESCRIPTOR:
        # A streaming writer leaves zeros here and tells the truth in the descriptor.
        if crc or compressed or size:
            pairs += [("sizes", v, w) for v, w in _pairs(member, crc, compressed, size) if v]
    elif not member.holds_nothing:
        pairs += [("sizes", v, w) for v, w in _pairs(member, crc, compressed, size)]
    else:
        pairs.append(("compressed size", compressed, member.compressed))
    for what, local, central in pairs:
        if local != central:
            raise _refused(
                Reason.LOCAL_HEADER_CONTRADICTS,
                f"{what}: {local!r} in the local header, {central!r} in the directory",
                member,
            )
    if member.offset + start + member.compressed > member.end:
        raise _refused(Reason.OVERLAPPING_MEMBERS, "its data reach over the next member", member)
    return LocalHeader(int(start), int(flags))


def _pairs(member: Member, crc: int, compressed: int, size: int) -> list[tuple[int, int]]:
    return [(crc, member.crc), (compressed, member.compressed), (size, member.size)]


def check_tail(member: Member, tail: Buffer, local_flags: int) -> None:
    """What stands between the data and the next member: a right data descriptor, or nothing.

    The local header announces a descriptor, since a reader from the front knows only that.
    """
    view = bytes(tail)
    if not view:
        return
    if local_flags & headers.FLAG_DESCRIPTOR:
        body = view
        if len(view) in (16, 24) and view.startswith(_DESCRIPTOR_SIGNATURE):
            body = view[4:]
        form = {12: "<3L", 20: "<L2Q"}.get(len(body))
        if form is not None:
            said = struct.unpack(form, body)
            if said == (member.crc, member.compressed, member.size):
                return
            raise _refused(
                Reason.DESCRIPTOR_CONTRADICTS,
                f"the data descriptor says CRC {said[0]:08x} and sizes {said[1]}, {said[2]}",
                member,
            )
    if view.endswith(MAGIC):
        raise _refused(
            Reason.UNACCOUNTED_DATA,
            "an Android signing block follows: UNZIP_SIGNING_BLOCK=true accepts it",
            member,
        )
    raise _refused(
        Reason.UNACCOUNTED_DATA, f"{len(view)} bytes follow that belong to nothing", member
    )


def unpack(member: Member, pieces: Iterable[Buffer], *, output: int = _OUTPUT) -> Iterator[bytes]:
    """The member's bytes in chunks of at most ``output``, CRC and size verified at the end.

    ``pieces`` is the compressed data in order. No more than one byte beyond the declared size
    is ever produced, and that one is not yielded, so a lying header costs nothing.
    """
    if member.holds_nothing:
        return
    crc = 0
    size = 0
    for chunk in _decoded(member, pieces, output):
        size += len(chunk)
        if size > member.size:
            raise _refused(Reason.WRONG_SIZE, f"more than the {member.size} bytes declared", member)
        crc = crc32(chunk, crc)
        yield chunk
    _check(member, size, crc)


def unpack_complete(member: Member, data: Buffer) -> bytes:
    """A small member's bytes in one piece."""
    if member.method != headers.DEFLATED or member.holds_nothing:
        return b"".join(unpack(member, [data]))
    decoder = inflater.decompressobj(wbits=-15)
    try:
        body = decoder.decompress(data, member.size + 1)
    except _CORRUPT as error:
        raise _refused(Reason.CORRUPT_DATA, str(error), member) from None
    if len(body) > member.size:
        raise _refused(Reason.WRONG_SIZE, f"more than the {member.size} bytes declared", member)
    if not decoder.eof and len(body) == member.size:
        # The output buffer was full before the end marker was read.
        try:
            more = decoder.decompress(decoder.unconsumed_tail, 1)
        except _CORRUPT as error:
            raise _refused(Reason.CORRUPT_DATA, str(error), member) from None
        if more:
            raise _refused(Reason.WRONG_SIZE, f"more than the {member.size} bytes declared", member)
    _check_end(member, decoder.eof, len(decoder.unused_data), len(body))
    _check(member, len(body), crc32(body))
    return bytes(body)


def _check(member: Member, size: int, crc: int) -> None:
    if size != member.size:
        raise _refused(Reason.WRONG_SIZE, f"{size} bytes, {member.size} declared", member)
    if crc != member.crc:
        raise _refused(Reason.WRONG_CRC, f"CRC {crc:08x}, {member.crc:08x} declared", member)


def _check_end(member: Member, eof: bool, unused: int, size: int) -> None:
    if not eof:
        raise _refused(Reason.CORRUPT_DATA, f"the compressed data stop after {size} bytes", member)
    if unused:
        raise _refused(
            Reason.UNACCOUNTED_DATA, f"{unused} bytes follow the end of the compressed data", member
        )


def _decoded(member: Member, pieces: Iterable[Buffer], output: int) -> Iterator[bytes]:
    if member.method == headers.STORED:
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(view), output):
                yield bytes(view[at : at + output])
        return
    if member.method == headers.BZIP2:
        yield from _bunzipped(member, pieces, output)
        return
    decoder = inflater.decompressobj(wbits=-15)
    size = 0
    unused = 0
    try:
        for piece in _sliced(pieces):
            if decoder.eof:
                unused += len(piece)
                continue
            rest: Buffer = piece
            while True:
                most = _most(member, size, output)
                chunk = decoder.decompress(rest, most)
                if chunk:
                    size += len(chunk)
                    yield chunk
                rest = decoder.unconsumed_tail
                if decoder.eof or (not rest and len(chunk) < most):
                    break
            if decoder.eof:
                unused += len(decoder.unused_data)
    except _CORRUPT as error:
        raise _refused(Reason.CORRUPT_DATA, str(error), member) from None
    _check_end(member, decoder.eof, unused, size)


def _sliced(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    for piece in pieces:
        view = memoryview(piece)
        for at in range(0, len(view), _INPUT):
            yield view[at : at + _INPUT]


def _most(member: Member, size: int, output: int) -> int:
    """How much may come out next: one byte beyond the declared size shows the lie."""
    return max(1, min(output, member.size + 1 - size))


def _bunzipped(member: Member, pieces: Iterable[Buffer], output: int) -> Iterator[bytes]:
    decoder = bz2.BZ2Decompressor()
    size = 0
    unused = 0
    try:
        for piece in _sliced(pieces):
            if decoder.eof:
                unused += len(piece)
                continue
            chunk = decoder.decompress(piece, _most(member, size, output))
            while chunk or not decoder.needs_input:
                size += len(chunk)
                if chunk:
                    yield chunk
                if decoder.eof:
                    break
                chunk = decoder.decompress(b"", _most(member, size, output))
            if decoder.eof:
                unused += len(decoder.unused_data)
    except _CORRUPT as error:
        raise _refused(Reason.CORRUPT_DATA, str(error), member) from None
    _check_end(member, decoder.eof, unused, size)


def _refused(reason: Reason, detail: str, member: Member) -> Refused:
    return Refused(reason, detail, member=member.path)
