"""The central directory of a zip, read strictly, by ranges.

Every byte of the archive must belong to exactly one thing: a member, the directory or the end
records. Anything else (data before, between or behind) is where two readers see two archives.
Field layouts: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from unzip.refusals import Reason, Refused
from unzip.zip import names
from unzip.zip.charsets import Decision, decide
from unzip.zip.collisions import check_together
from unzip.zip.end_records import TAIL, Ends, contradiction, read_ends
from unzip.zip.headers import (
    AES,
    ENTRY_SIGNATURE,
    FLAG_ENCRYPTED,
    LOCAL_SIGNATURE,
    LOCAL_SIZE,
    MAX16,
    MAX32,
    METHODS,
    READABLE,
    STORED,
    Buffer,
    Read,
    parse_extra,
    shown,
    widen,
    zip64_field,
)
from unzip.zip.kinds import LONGEST_LINK, Kind, kind_of
from unzip.zip.limits import LINK_TARGETS_BYTES, Limits, check_budget
from unzip.zip.member import Directory, Member, written_name
from unzip.zip.signing_block import signing_block_start

_ENTRY = struct.Struct("<4s6H3L5H2L")
_CHUNK = 1 << 20
_KNOWN_NAMES = 100
MEMBER_BYTES = 512  # of memory for what a member has beside its name, at most
_TEXT_WIDTH = 4  # bytes of memory that a byte of UTF-8 takes as text, at most
_MASKED = 1 << 13  # the local headers of an encrypted directory hide their values


def most_bytes(entries: int, size: int, limits: Limits) -> int:
    """The memory that a directory of ``size`` bytes may take while its archive is extracted.

    A name takes at most twice its bytes, and no more than a key has; the targets of symbolic
    links are text.
    """
    written = max(0, size - entries * _ENTRY.size)
    targets = _TEXT_WIDTH * min(entries * LONGEST_LINK, LINK_TARGETS_BYTES)
    return entries * MEMBER_BYTES + min(2 * written, entries * limits.name_bytes) + targets


def read_directory(
    size: int,
    read: Read,
    limits: Limits,
    *,
    reserved: str,
    reserve: Callable[[int], None] = lambda count: None,
    signing_block: bool = False,
    name_charsets: Sequence[str] = (),
) -> Directory:
    """The members of an archive of ``size`` bytes, checked against each other and ``limits``.

    Refused for everything that can be seen without the members' data. ``reserved`` is the one
    path that no member may have; with ``signing_block`` an Android package's is accepted.
    ``reserve`` is called with the bytes of memory that all this may take, before it does.
    Names that do not say their charset are in the first of ``name_charsets`` that decodes them
    all; without any, evidence decides.
    """
    start = max(0, size - TAIL)
    tail = bytes(read(start, size)) if size else b""
    ends = read_ends(size, start, tail, read)
    if ends.entries > limits.members:
        raise Refused(
            Reason.TOO_MANY_MEMBERS, f"{ends.entries} members, at most {limits.members} allowed"
        )
    reserve(most_bytes(ends.entries, ends.size, limits))

    def chunks() -> Iterator[Buffer]:
        position, stop = ends.offset, ends.offset + ends.size
        if start <= position < stop:
            yield memoryview(tail)[position - start : stop - start]
            return
        while position < stop:
            upto = min(position + _CHUNK, stop)
            yield read(position, upto)
            position = upto

    members, charset = _parse(_entries(chunks(), ends, read), limits, name_charsets)
    _place(members, signing_block_start(ends.offset, read) if signing_block else ends.offset)
    check_budget(members, size, limits)
    check_together(lambda: (member.utf8 for member in members), reserved=reserved)
    if members and all(member.kind is not Kind.FILE for member in members):
        kinds = ", ".join(sorted({str(member.kind) for member in members}))
        raise Refused(Reason.NO_FILES, f"{len(members)} members, and none is a file: {kinds}")
    return Directory(members, ends.comment, ends.zip64, charset)


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


def _parse(
    entries: Iterator[_Entry], limits: Limits, name_charsets: Sequence[str]
) -> tuple[list[Member], Decision | None]:
    members: list[Member] = []
    unnamed: list[tuple[int, _Entry]] = []
    known: list[tuple[bytes, str]] = []  # some names whose text a Unicode field gives
    charset: Decision | None = None
    for entry in entries:
        _check_readable(entry)
        # Before they are collected: a hundred thousand names of 64 KiB would fill the memory. No
        # encoding that is read here has fewer bytes in UTF-8.
        for length in (len(entry.raw), len(entry.named[0].encode()) if entry.named else 0):
            if length > limits.name_bytes + names.SPARE_BYTES:
                raise Refused(
                    Reason.NAME_TOO_LONG,
                    f"{length} bytes, at most {limits.name_bytes} fit a key",
                    member=shown(entry.raw),
                )
        if entry.named is None:
            unnamed.append((len(members), entry))
            members.append(_UNNAMED)
        else:
            members.append(_member(entry, *entry.named, limits))
            if entry.named[1] == "unicode-extra" and len(known) < _KNOWN_NAMES:
                known += [] if entry.raw.isascii() else [(entry.raw, entry.named[0])]
    if unnamed:
        raws = [entry.raw for _, entry in unnamed]
        charset = names.set_charset(raws, name_charsets) or decide(
            raws, {entry.made_by >> 8 for _, entry in unnamed}, known
        )
        del raws
        unnamed.reverse()
        while unnamed:  # each is freed as soon as its member is there
            index, entry = unnamed.pop()
            members[index] = _member(entry, *names.decoded(entry.raw, charset), limits)
    return members, charset


def _member(entry: _Entry, name: str, source: str, limits: Limits) -> Member:
    made_by = entry.made_by >> 8
    path = names.checked_path(name, made_by=made_by, limit=limits.name_bytes)
    kind = kind_of(
        path,
        made_by=made_by,
        attributes=entry.attributes,
        size=entry.size,
        compressed=entry.compressed,
    )
    if kind is Kind.FOLDER and not path.endswith("/"):
        path += "/"
    if kind is not Kind.FOLDER:
        _check_sizes(entry, path, limits)
    utf8 = path.encode()
    return Member(
        utf8,
        b"" if utf8 == entry.raw else written_name(entry.raw),
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


_UNNAMED = Member(b"", b"", "", Kind.FILE, 0, 0, 0, 0, 0, 0, 0)


def _entries(chunks: Iterator[Buffer], ends: Ends, read: Read) -> Iterator[_Entry]:
    count = ends.entries
    buffer = b""
    position = 0

    def need(length: int) -> None:
        nonlocal buffer, position
        while len(buffer) - position < length:
            more = next(chunks, None)
            if more is None:
                raise contradiction("the directory ends within an entry")
            buffer = buffer[position:] + bytes(more)
            position = 0

    for index in range(count):
        need(_ENTRY.size)
        fields = _ENTRY.unpack_from(buffer, position)
        if fields[0] != ENTRY_SIGNATURE:
            if index == 0 and _is_masked(read, ends.offset):
                raise Refused(Reason.ENCRYPTED, "the directory is encrypted")
            raise contradiction(f"entry {index} of {count} is not there")
        (_, made_by, _, flags, method, _, _, crc, compressed, size) = fields[:10]
        name_length, extra_length, comment_length, disk, _, attributes, offset = fields[10:]
        need(_ENTRY.size + name_length + extra_length + comment_length)
        at = position + _ENTRY.size
        raw = buffer[at : at + name_length]
        at += name_length
        extra = parse_extra(buffer[at : at + extra_length], raw) if extra_length else {}
        position = at + extra_length + comment_length
        if MAX32 in (compressed, size, offset) or disk == MAX16:
            size, compressed, offset, disk = widen(
                zip64_field(extra),
                raw,
                size=size,
                compressed=compressed,
                offset=offset,
                disk=disk,
            )
        if disk:
            raise Refused(Reason.MULTI_DISK, f"a member lies on disk {disk}", member=shown(raw))
        named = names.flagged_name(raw, flags, extra)
        yield _Entry(raw, named, made_by, attributes, method, flags, crc, compressed, size, offset)
    if len(buffer) != position or next(chunks, None) is not None:
        raise contradiction(f"the directory goes on behind its {count} entries")


def _is_masked(read: Read, stop: int) -> bool:
    if stop < LOCAL_SIZE:
        return False
    header = bytes(read(0, LOCAL_SIZE))
    flags = int.from_bytes(header[6:8], "little")
    return header.startswith(LOCAL_SIGNATURE) and bool(flags & _MASKED)


def _check_readable(entry: _Entry) -> None:
    if entry.flags & FLAG_ENCRYPTED or entry.method == AES:
        raise Refused(
            Reason.ENCRYPTED,
            "a member is encrypted: pack it without a password",
            member=shown(entry.raw),
        )
    if entry.method not in READABLE:
        name = METHODS.get(entry.method, "unknown")
        raise Refused(
            Reason.UNSUPPORTED_METHOD,
            f"method {entry.method} ({name}); stored, deflate and bzip2 can be read: "
            "pack it with one of these",
            member=shown(entry.raw),
        )


def _check_sizes(entry: _Entry, path: str, limits: Limits) -> None:
    if entry.method == STORED and entry.compressed != entry.size:
        raise Refused(
            Reason.WRONG_SIZE,
            f"a stored member of {entry.compressed} bytes is said to have {entry.size}",
            member=path,
        )
    if entry.size > limits.member_bytes:
        raise Refused(
            Reason.MEMBER_TOO_LARGE,
            f"{entry.size} bytes, at most {limits.member_bytes} allowed",
            member=path,
        )


def _place(members: list[Member], stop: int) -> None:
    """Sort by the order of the data and give each member its end; none lies over another.

    ``stop`` is where the last member's bytes must end.
    """
    members.sort(key=lambda member: member.offset)
    if members and members[0].offset:
        raise Refused(
            Reason.LEADING_DATA,
            f"{members[0].offset} bytes come before the first member: a self-extracting "
            "archive, or another file in front",
        )
    for index, member in enumerate(members):
        end = members[index + 1].offset if index + 1 < len(members) else stop
        least = LOCAL_SIZE + member.raw_length + member.compressed
        if member.offset + least > end:
            raise Refused(
                Reason.OVERLAPPING_MEMBERS,
                f"{least} bytes at {member.offset} reach over what begins at {end}",
                member=member.path,
            )
        members[index] = member._replace(end=end)
