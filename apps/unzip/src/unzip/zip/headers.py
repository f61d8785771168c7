"""What local and central headers share: signatures, flags, methods, extra fields.

Field layouts: PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from unzip.refusals import Reason, Refused

Buffer = bytes | bytearray | memoryview
Read = Callable[[int, int], Buffer]
"""Bytes [start, end) of the archive."""

ENTRY_SIGNATURE = b"PK\x01\x02"
LOCAL_SIGNATURE = b"PK\x03\x04"
LOCAL_SIZE = 30
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
ZIP64 = 0x0001
UNICODE_PATH = 0x7075

FLAG_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
FLAG_DESCRIPTOR = 1 << 3
FLAG_UTF8 = 1 << 11
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
                member=shown(raw_name),
            )
        if identity in fields and identity in (ZIP64, UNICODE_PATH):
            raise Refused(
                Reason.MALFORMED_HEADER,
                f"extra field {identity:#06x} is there twice",
                member=shown(raw_name),
            )
        fields[identity] = data[at : at + length]
        at += length
    return fields


def widen(
    field: bytes, raw: bytes, *, size: int, compressed: int, offset: int = 0, disk: int = 0
) -> tuple[int, int, int, int]:
    """The values behind the 32-bit placeholders, in the order APPNOTE 4.5.3 gives them."""
    at = 0

    def take(form: str) -> int:
        nonlocal at
        width = struct.calcsize(form)
        if at + width > len(field):
            raise Refused(
                Reason.MALFORMED_HEADER, "the ZIP64 extra field is too short", member=shown(raw)
            )
        (value,) = struct.unpack_from(form, field, at)
        at += width
        return int(value)

    size = take("<Q") if size == MAX32 else size
    compressed = take("<Q") if compressed == MAX32 else compressed
    offset = take("<Q") if offset == MAX32 else offset
    disk = take("<L") if disk == MAX16 else disk
    return size, compressed, offset, disk


def local_sizes(field: bytes, raw: bytes, size: int, compressed: int) -> tuple[int, int]:
    """Size and compressed size of a local header, through its ZIP64 field where it needs one."""
    if MAX32 not in (size, compressed):
        return size, compressed
    return widen(field, raw, size=size, compressed=compressed)[:2]


def zip64_field(extra: dict[int, bytes]) -> bytes:
    """The ZIP64 field of a header, or nothing."""
    return extra.get(ZIP64, b"")


def shown(raw: bytes) -> str:
    """A raw name for messages; at most 1,024 bytes of it."""
    return raw[:1024].decode("utf-8", "backslashreplace")
