"""The central directory of a zip, read strictly, by ranges.

Every byte of the archive must belong to exactly one thing: a member, the directory or the end
records. Anything else (data before, between or behind) is where two readers see two archives.
Field layouts: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.4.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from unzip import names
from unzip.refusals import Reason, Refused

Buffer = bytes | memoryview
Read = Callable[[int, int], Buffer]
"""Bytes [start, end) of the archive."""

END_SIGNATURE = b"PK\x05\x06"
END64_SIGNATURE = b"PK\x06\x06"
LOCATOR_SIGNATURE = b"PK\x06\x07"
ENTRY_SIGNATURE = b"PK\x01\x02"
LOCAL_SIGNATURE = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_ZIP64 = 0x0001
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
LOCAL_SIZE = 30
# The longest comment, the end record, the ZIP64 locator and record; the rest saves most small
# archives a second request.
_TAIL = 65_535 + _END.size + _LOCATOR.size + _END64.size + 65_536
_CHUNK = 1 << 20

FLAG_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
FLAG_DESCRIPTOR = 1 << 3
STORED, DEFLATED, BZIP2, AES = 0, 8, 12, 99
METHODS = {
    1: "shrink",
    2: "reduce-1",
    3: "reduce-2",
    4: "reduce-3",
    5: "reduce-4",
    6: "implode",
    9: "deflate64",
    10: "dcl-implode",
    14: "lzma",
    16: "z/OS-cmpsc",
    18: "terse",
    19: "lz77",
    20: "zstd (deprecated number)",
    93: "zstd",
    94: "mp3",
    95: "xz",
    96: "jpeg",
    97: "wavpack",
    98: "ppmd",
}
READABLE = (STORED, DEFLATED, BZIP2)


class Kind(StrEnum):
    """What a member is."""

    FILE = "file"
    FOLDER = "folder"
    SYMBOLIC_LINK = "symbolic_link"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Limits:
    """The budget of one archive. ``ratio`` counts only above ``ratio_free_bytes`` of output."""

    members: int = 100_000
    total_bytes: int = 64 << 30
    member_bytes: int = 64 << 30
    ratio: float = 250.0
    ratio_free_bytes: int = 16 << 20
    name_bytes: int = 900


class Member(NamedTuple):
    """One entry of the directory. Offsets and sizes in bytes; ``end`` is where the next begins."""

    path: str
    raw_name: bytes
    name_source: str
    kind: Kind
    method: int
    flags: int
    crc: int
    compressed: int
    size: int
    offset: int
    end: int


class Directory(NamedTuple):
    """All members in the order of their data, and the archive's comment."""

    members: list[Member]
    comment: bytes
    zip64: bool


class _Ends(NamedTuple):
    entries: int
    offset: int
    size: int
    comment: bytes
    zip64: bool


def read_directory(size: int, read: Read, limits: Limits, *, reserved: str) -> Directory:
    """The members of an archive of ``size`` bytes, checked against each other and ``limits``.

    Refused for everything that can be seen without the members' data. ``reserved`` is the one
    path that no member may have.
    """
    start = max(0, size - _TAIL)
    tail = bytes(read(start, size)) if size else b""
    ends = _read_ends(size, start, tail, read)
    if ends.entries > limits.members:
        raise Refused(
            Reason.TOO_MANY_MEMBERS, f"{ends.entries} members, at most {limits.members} allowed"
        )

    def chunks() -> Iterator[Buffer]:
        position, stop = ends.offset, ends.offset + ends.size
        if start <= position < stop:
            yield memoryview(tail)[position - start : stop - start]
            return
        while position < stop:
            upto = min(position + _CHUNK, stop)
            yield read(position, upto)
            position = upto

    members = _place(_parse(chunks(), ends, limits), ends)
    _check_budget(members, size, limits)
    names.check_together((member.path for member in members), reserved=reserved)
    return Directory(members, ends.comment, ends.zip64)


def _read_ends(size: int, start: int, tail: bytes, read: Read) -> _Ends:
    position, fields = _find_end(size, start, tail)
    _, disk, first_disk, here, total, length, offset, comment_length = fields
    comment = tail[position - start + _END.size : position - start + _END.size + comment_length]
    stop = position
    zip64 = False
    locator_at = position - _LOCATOR.size
    if locator_at >= start and tail[locator_at - start :].startswith(LOCATOR_SIGNATURE):
        zip64 = True
        _, disk64, at, disks = _LOCATOR.unpack_from(tail, locator_at - start)
        if disk64 or disks > 1:
            raise Refused(Reason.MULTI_DISK, f"the archive spans {disks} disks")
        if at + _END64.size > locator_at:
            raise _contradiction(f"the ZIP64 record is said to be at {at}")
        record = bytes(read(at, at + _END64.size))
        signature, extent, _, _, *wide = _END64.unpack(record)
        if signature != END64_SIGNATURE or at + 12 + extent != locator_at:
            raise _contradiction(f"there is no ZIP64 record from {at} to {locator_at}")
        narrow = (disk, first_disk, here, total, length, offset)
        tops = (_MAX16, _MAX16, _MAX16, _MAX16, _MAX32, _MAX32)
        for one, other, top in zip(narrow, wide, tops, strict=True):
            if one not in (top, other):
                raise _contradiction(f"the end record says {one}, its ZIP64 form {other}")
        disk, first_disk, here, total, length, offset = wide
        stop = at
    elif _MAX32 in (length, offset):
        raise _contradiction("the end record points to a ZIP64 record that is not there")
    if disk or first_disk or here != total:
        raise Refused(Reason.MULTI_DISK, f"disk {disk} of an archive in parts")
    if offset + length != stop:
        raise _contradiction(
            f"the directory is said to be {length} bytes at {offset}, but it must end at {stop}"
        )
    if total * _ENTRY.size > length or (total == 0 and length):
        raise _contradiction(f"{total} entries do not fit a directory of {length} bytes")
    if total == 0 and offset:
        raise _contradiction(f"no entry is listed, yet {offset} bytes come before the directory")
    return _Ends(total, offset, length, comment, zip64)


def _contradiction(detail: str) -> Refused:
    return Refused(Reason.CONTRADICTORY_END_RECORD, detail)


def _find_end(size: int, start: int, tail: bytes) -> tuple[int, tuple[int, ...]]:
    """Where the one end record is that reaches exactly to the last byte, and its fields."""
    ending: list[int] = []
    shorter: list[int] = []
    beyond: list[int] = []
    at = tail.find(END_SIGNATURE)
    while at >= 0:
        if at + _END.size <= len(tail):
            fields = _END.unpack_from(tail, at)
            stop = at + _END.size + fields[-1]
            plausible = fields[6] + fields[5] <= start + at or _MAX32 in fields[5:7]
            if stop == len(tail):
                ending.append(at)
            elif stop < len(tail) and plausible:
                shorter.append(at)
            elif stop > len(tail) and plausible:
                beyond.append(at)
        at = tail.find(END_SIGNATURE, at + 1)
    if not ending:
        # The last record is the archive's own; one before it may be a nested zip's.
        if shorter and shorter[-1] > max(beyond, default=-1):
            at = shorter[-1]
            stop = start + at + _END.size + _END.unpack_from(tail, at)[-1]
            raise Refused(
                Reason.TRAILING_DATA, f"{size - stop} bytes follow the end of the archive at {stop}"
            )
        raise Refused(
            Reason.NO_END_RECORD, f"no whole end record in the last {len(tail)} of {size} bytes"
        )
    if len(ending) > 1 or any(at > ending[0] for at in shorter):
        raise Refused(
            Reason.SECOND_END_RECORD, "two end records: readers would differ on which one counts"
        )
    return start + ending[0], _END.unpack_from(tail, ending[0])


class _Entry(NamedTuple):
    raw: bytes
    named: tuple[str, str] | None
    made_by: int
    attributes: int
    method: int
    flags: int
    crc: int
    compressed: int
    size: int
    offset: int


def _parse(chunks: Iterator[Buffer], ends: _Ends, limits: Limits) -> list[Member]:
    entries: list[_Entry] = []
    for entry in _entries(chunks, ends.entries):
        _check_readable(entry)
        # Before they are collected: a hundred thousand names of 64 KiB would fill the memory. No
        # encoding that is read here has fewer bytes in UTF-8.
        for length in (len(entry.raw), len(entry.named[0].encode()) if entry.named else 0):
            if length > limits.name_bytes:
                raise Refused(
                    Reason.NAME_TOO_LONG,
                    f"{length} bytes, at most {limits.name_bytes} fit a key",
                    member=_shown(entry.raw),
                )
        entries.append(entry)
    unnamed = [entry.raw for entry in entries if entry.named is None]
    encoding = names.guess_encoding(unnamed) if unnamed else ""
    members = []
    for entry in entries:
        name, source = entry.named or (entry.raw.decode(encoding), encoding)
        path = names.checked_path(name, made_by=entry.made_by >> 8, limit=limits.name_bytes)
        kind = _kind(path, entry)
        if kind is Kind.FOLDER and entry.size:
            raise Refused(
                Reason.FOLDER_WITH_DATA, f"a folder holds {entry.size} bytes", member=path
            )
        if entry.size > limits.member_bytes:
            raise Refused(
                Reason.MEMBER_TOO_LARGE,
                f"{entry.size} bytes, at most {limits.member_bytes} allowed",
                member=path,
            )
        members.append(
            Member(
                path,
                entry.raw,
                source,
                kind,
                entry.method,
                entry.flags,
                entry.crc,
                entry.compressed,
                entry.size,
                entry.offset,
                0,
            )
        )
    return members


def _entries(chunks: Iterator[Buffer], count: int) -> Iterator[_Entry]:
    buffer = b""
    position = 0

    def need(length: int) -> None:
        nonlocal buffer, position
        while len(buffer) - position < length:
            more = next(chunks, None)
            if more is None:
                raise _contradiction("the directory ends within an entry")
            buffer = buffer[position:] + bytes(more)
            position = 0

    for index in range(count):
        need(_ENTRY.size)
        fields = _ENTRY.unpack_from(buffer, position)
        if fields[0] != ENTRY_SIGNATURE:
            raise _contradiction(f"entry {index} of {count} is not there")
        (_, made_by, _, flags, method, _, _, crc, compressed, size) = fields[:10]
        name_length, extra_length, comment_length, disk, _, attributes, offset = fields[10:]
        need(_ENTRY.size + name_length + extra_length + comment_length)
        at = position + _ENTRY.size
        raw = buffer[at : at + name_length]
        at += name_length
        extra = parse_extra(buffer[at : at + extra_length], raw) if extra_length else {}
        position = at + extra_length + comment_length
        if _MAX32 in (compressed, size, offset) or disk == _MAX16:
            size, compressed, offset, disk = _widen(
                extra.get(_ZIP64, b""),
                raw,
                size=size,
                compressed=compressed,
                offset=offset,
                disk=disk,
            )
        if disk:
            raise Refused(Reason.MULTI_DISK, f"a member lies on disk {disk}", member=_shown(raw))
        named = names.flagged_name(raw, flags, extra)
        yield _Entry(raw, named, made_by, attributes, method, flags, crc, compressed, size, offset)
    if len(buffer) != position or next(chunks, None) is not None:
        raise _contradiction(f"the directory goes on behind its {count} entries")


def parse_extra(data: bytes, raw_name: bytes) -> dict[int, bytes]:
    """Extra fields by id. One to three odd bytes at the end are padding (zipalign's)."""
    fields: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        identity, length = struct.unpack_from("<HH", data, at)
        at += 4
        if at + length > len(data):
            raise Refused(
                Reason.MALFORMED_HEADER,
                f"extra field {identity:#06x} runs past its header",
                member=_shown(raw_name),
            )
        if identity in fields and identity in (_ZIP64, names.UNICODE_PATH):
            raise Refused(
                Reason.MALFORMED_HEADER,
                f"extra field {identity:#06x} is there twice",
                member=_shown(raw_name),
            )
        fields[identity] = data[at : at + length]
        at += length
    return fields


def _widen(
    field: bytes, raw: bytes, *, size: int, compressed: int, offset: int = 0, disk: int = 0
) -> tuple[int, int, int, int]:
    """The values behind the 32-bit placeholders, in the order APPNOTE 4.5.3 gives them."""
    at = 0

    def take(form: str) -> int:
        nonlocal at
        width = struct.calcsize(form)
        if at + width > len(field):
            raise Refused(
                Reason.MALFORMED_HEADER, "the ZIP64 extra field is too short", member=_shown(raw)
            )
        (value,) = struct.unpack_from(form, field, at)
        at += width
        return int(value)

    size = take("<Q") if size == _MAX32 else size
    compressed = take("<Q") if compressed == _MAX32 else compressed
    offset = take("<Q") if offset == _MAX32 else offset
    disk = take("<L") if disk == _MAX16 else disk
    return size, compressed, offset, disk


def local_sizes(field: bytes, raw: bytes, size: int, compressed: int) -> tuple[int, int]:
    """Size and compressed size of a local header, through its ZIP64 field where it needs one."""
    if _MAX32 not in (size, compressed):
        return size, compressed
    return _widen(field, raw, size=size, compressed=compressed)[:2]


def zip64_field(extra: dict[int, bytes]) -> bytes:
    """The ZIP64 field of a header, or nothing."""
    return extra.get(_ZIP64, b"")


def _shown(raw: bytes) -> str:
    return raw[:1024].decode("utf-8", "backslashreplace")


def _check_readable(entry: _Entry) -> None:
    if entry.flags & FLAG_ENCRYPTED or entry.method == AES:
        raise Refused(Reason.ENCRYPTED, "a member is encrypted", member=_shown(entry.raw))
    if entry.method not in READABLE:
        name = METHODS.get(entry.method, "unknown")
        raise Refused(
            Reason.UNSUPPORTED_METHOD,
            f"method {entry.method} ({name}); stored, deflate and bzip2 can be read",
            member=_shown(entry.raw),
        )
    if entry.method == STORED and entry.compressed != entry.size:
        raise Refused(
            Reason.WRONG_SIZE,
            f"a stored member of {entry.compressed} bytes is said to have {entry.size}",
            member=_shown(entry.raw),
        )


def _kind(path: str, entry: _Entry) -> Kind:
    mode = entry.attributes >> 16
    # Unix and macOS put the mode in the upper half; others leave it zero, or do not mean it.
    if entry.made_by >> 8 in (3, 19) and stat.S_IFMT(mode):
        if stat.S_ISLNK(mode):
            return Kind.SYMBOLIC_LINK
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return Kind.DEVICE
    return Kind.FOLDER if path.endswith("/") else Kind.FILE


def _place(members: list[Member], ends: _Ends) -> list[Member]:
    """The members in the order of their data, each with its end, none over another."""
    members.sort(key=lambda member: member.offset)
    placed = []
    if members and members[0].offset:
        raise Refused(
            Reason.LEADING_DATA, f"{members[0].offset} bytes come before the first member"
        )
    for index, member in enumerate(members):
        end = members[index + 1].offset if index + 1 < len(members) else ends.offset
        least = LOCAL_SIZE + len(member.raw_name) + member.compressed
        if member.offset + least > end:
            raise Refused(
                Reason.OVERLAPPING_MEMBERS,
                f"{least} bytes at {member.offset} reach over what begins at {end}",
                member=member.path,
            )
        placed.append(member._replace(end=end))
    return placed


def _check_budget(members: list[Member], size: int, limits: Limits) -> None:
    total = sum(member.size for member in members)
    if total > limits.total_bytes:
        raise Refused(
            Reason.TOO_LARGE, f"{total} bytes in all, at most {limits.total_bytes} allowed"
        )
    if total > limits.ratio_free_bytes and total > size * limits.ratio:
        raise Refused(
            Reason.RATIO_TOO_HIGH,
            f"{size} bytes would become {total}, {total / size:.0f}-fold; "
            f"at most {limits.ratio:.0f}-fold allowed",
        )
