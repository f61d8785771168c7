"""The records at the end of a zip: exactly one reading of them, or Refused.

Field layouts: PKWARE APPNOTE 6.3.10, sections 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from unzip.refusals import Reason, Refused
from unzip.zip.headers import ENTRY_SIGNATURE, LOCAL_SIGNATURE, MAX16, MAX32, Read
from unzip.zip.other_formats import HEAD_BYTES, described

END_SIGNATURE = b"PK\x05\x06"
END64_SIGNATURE = b"PK\x06\x06"
LOCATOR_SIGNATURE = b"PK\x06\x07"
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
# Section 7.3.4: method, packed and real size, cipher, bits of the key, flags, hash, its length.
_END64_VERSION_2 = struct.Struct("<H2Q5H")
_LEAST_ENTRY = 46
_TAR_BLOCK, _TAR_RECORD = 512, 10_240
# The longest comment, the end record, the ZIP64 locator and record; the rest covers the padding
# and saves most small archives a second request.
TAIL = 65_535 + _END.size + _LOCATOR.size + _END64.size + 65_536


class Ends(NamedTuple):
    """Where the directory is: ``entries`` of them in ``size`` bytes at ``offset``."""

    entries: int
    offset: int
    size: int
    comment: bytes
    zip64: bool


def read_ends(size: int, start: int, tail: bytes, read: Read) -> Ends:
    """Where the directory of an archive of ``size`` bytes is; ``tail`` is all from ``start`` on."""
    position, fields = _find_end(size, start, tail, read)
    _, disk, first_disk, here, total, length, offset, comment_length = fields
    comment = tail[position - start + _END.size : position - start + _END.size + comment_length]
    stop = position
    zip64 = False
    at = _record64_at(position, start, tail, fields, read)
    if at is not None:
        zip64 = True
        wide = _read_record64(at, position - _LOCATOR.size, read)
        narrow = (disk, first_disk, here, total, length, offset)
        tops = (MAX16, MAX16, MAX16, MAX16, MAX32, MAX32)
        for one, other, top in zip(narrow, wide, tops, strict=True):
            if one not in (top, other):
                raise contradiction(f"the end record says {one}, its ZIP64 form {other}")
        disk, first_disk, here, total, length, offset = wide
        stop = at
    elif MAX32 in (length, offset):
        raise contradiction("the end record points to a ZIP64 record that is not there")
    if disk or first_disk or here != total:
        raise Refused(Reason.MULTI_DISK, f"disk {disk} of an archive in parts")
    if offset + length != stop:
        before = stop - length - offset
        if _begins_at(before, stop - length, read):
            raise Refused(
                Reason.LEADING_DATA,
                f"{before} bytes come before the archive: a self-extracting one, or two files "
                "written one behind the other",
            )
        raise contradiction(
            f"the directory is said to be {length} bytes at {offset}, but it must end at {stop}"
        )
    if total * _LEAST_ENTRY > length or (total == 0 and length):
        raise contradiction(f"{total} entries do not fit a directory of {length} bytes")
    if total == 0 and offset:
        raise contradiction(f"no entry is listed, yet {offset} bytes come before the directory")
    return Ends(total, offset, length, comment, zip64)


def _begins_at(before: int, directory: int, read: Read) -> bool:
    """Whether an archive begins ``before`` bytes into the file, its directory where it must be."""
    return (
        0 < before < directory
        and bytes(read(before, before + 4)) == LOCAL_SIGNATURE
        and bytes(read(directory, directory + 4)) == ENTRY_SIGNATURE
    )


def _record64_at(
    position: int, start: int, tail: bytes, fields: tuple[int, ...], read: Read
) -> int | None:
    """Where the ZIP64 record is said to be, if what stands before the end record is a locator.

    The same bytes may be a part of the last member's name or comment: then the directory that
    the end record describes reaches over them, and no ZIP64 record is where any reader looks.
    """
    locator_at = position - _LOCATOR.size
    if locator_at < start or not tail.startswith(LOCATOR_SIGNATURE, locator_at - start):
        return None
    _, disk, at, disks = _LOCATOR.unpack_from(tail, locator_at - start)
    total, length, offset = fields[4:7]
    if total != MAX16 and MAX32 not in (length, offset) and offset + length == position:
        looked_at = [place for place in (at, locator_at - _END64.size) if 0 <= place < locator_at]
        if all(bytes(read(place, place + 4)) != END64_SIGNATURE for place in looked_at):
            return None
    if disk or disks > 1:
        raise Refused(Reason.MULTI_DISK, f"the archive spans {disks} disks")
    if at + _END64.size > locator_at:
        raise contradiction(f"the ZIP64 record is said to be at {at}")
    return int(at)


def _read_record64(at: int, stop: int, read: Read) -> tuple[int, ...]:
    """Disk, first disk, entries here and in all, size and offset of the directory."""
    record = bytes(read(at, min(stop, at + _END64.size + _END64_VERSION_2.size)))
    signature, extent, _, _, *wide = _END64.unpack_from(record)
    if signature != END64_SIGNATURE or at + 12 + extent != stop:
        raise contradiction(f"there is no ZIP64 record from {at} to {stop}")
    if len(record) >= _END64.size + _END64_VERSION_2.size:
        method, _, _, algorithm, *_ = _END64_VERSION_2.unpack_from(record, _END64.size)
        if algorithm:
            raise Refused(Reason.ENCRYPTED, f"the directory is encrypted, by {algorithm:#06x}")
        if method:
            raise Refused(Reason.UNSUPPORTED_METHOD, f"the directory is compressed, by {method}")
    return tuple(wide)


def contradiction(detail: str) -> Refused:
    """The end records do not fit what is there."""
    return Refused(Reason.CONTRADICTORY_END_RECORD, detail)


def _find_end(size: int, start: int, tail: bytes, read: Read) -> tuple[int, tuple[int, ...]]:
    """Where the one end record is that reaches to the end of the file, and its fields.

    Zeros may follow it up to the end of a tar record: what bsdtar, the `tar` of Windows and
    macOS, writes to a pipe.
    """
    filled = len(tail.rstrip(b"\0")) if size % _TAR_BLOCK == 0 else len(tail)
    ending: list[int] = []
    shorter: list[int] = []
    beyond: list[int] = []
    at = tail.find(END_SIGNATURE)
    while at >= 0:
        if at + _END.size <= len(tail):
            fields = _END.unpack_from(tail, at)
            stop = at + _END.size + fields[-1]
            plausible = fields[6] + fields[5] <= start + at or MAX32 in fields[5:7]
            if filled <= stop <= len(tail) < stop + _TAR_RECORD:
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
            Reason.NO_END_RECORD,
            f"no complete end record in the last {len(tail)} of {size} bytes: "
            f"{described(bytes(read(0, min(size, HEAD_BYTES))) if size else b'')}",
        )
    if len(ending) > 1 or any(at > ending[0] for at in shorter):
        raise Refused(
            Reason.SECOND_END_RECORD, "two end records: readers would differ on which one counts"
        )
    return start + ending[0], _END.unpack_from(tail, ending[0])
