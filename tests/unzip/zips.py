"""Archives made byte by byte, so that each field can tell the truth or lie.

``GOOD`` maps a name to an archive and the files it holds; ``BAD`` maps a name to an archive and
the reason it must be refused for. Every defect ever found becomes another line here.
"""

from __future__ import annotations

import bz2
import io
import random
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unzip.refusals import Reason

UNIX = 3 << 8 | 30
DOS = 0 << 8 | 20
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
UTF8, DESCRIPTOR, ENCRYPTED = 1 << 11, 1 << 3, 1 << 0


@dataclass
class Entry:
    """A member. ``local`` and ``central`` override single fields of its headers."""

    name: bytes
    data: bytes = b""
    method: int = 8
    flags: int = 0
    made_by: int = UNIX
    mode: int = stat.S_IFREG | 0o644
    descriptor: Literal["", "signed", "unsigned", "signed64", "unsigned64"] = ""
    zip64: bool = False
    extra: bytes = b""
    comment: bytes = b""
    after: bytes = b""
    compressed: bytes | None = None
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)

    def packed(self) -> bytes:
        if self.compressed is not None:
            return self.compressed
        if self.method == 8:
            deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
            return deflater.compress(self.data) + deflater.flush()
        return bz2.compress(self.data) if self.method == 12 else self.data


def extra(identity: int, body: bytes) -> bytes:
    return struct.pack("<HH", identity, len(body)) + body


def unicode_path(raw: bytes, name: str, *, crc: int | None = None) -> bytes:
    return extra(
        0x7075, b"\x01" + struct.pack("<I", zlib.crc32(raw) if crc is None else crc) + name.encode()
    )


def _local(entry: Entry, packed: bytes) -> bytes:
    streamed = bool(entry.descriptor)
    f: dict[str, Any] = {
        "name": entry.name,
        "method": entry.method,
        "flags": entry.flags | (DESCRIPTOR if streamed else 0),
        "crc": 0 if streamed else zlib.crc32(entry.data),
        "compressed": 0 if streamed else len(packed),
        "size": 0 if streamed else len(entry.data),
        "extra": entry.extra,
    } | dict(entry.local)
    if entry.zip64:
        f["extra"] = extra(1, struct.pack("<QQ", f["size"], f["compressed"])) + f["extra"]
        f["size"] = f["compressed"] = MAX32
    head = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, f["flags"], f["method"], 0, 0x5821, f["crc"],
        f["compressed"], f["size"], len(f["name"]), len(f["extra"]),
    )  # fmt: skip
    return bytes(head + f["name"] + f["extra"])


def _descriptor(entry: Entry, packed: bytes) -> bytes:
    if not entry.descriptor:
        return b""
    said = {"crc": zlib.crc32(entry.data), "compressed": len(packed), "size": len(entry.data)}
    said |= dict(entry.said)
    form = "<L2Q" if entry.descriptor.endswith("64") else "<3L"
    signature = b"PK\7\x08" if entry.descriptor.startswith("signed") else b""
    return signature + struct.pack(form, said["crc"], said["compressed"], said["size"])


def _central(entry: Entry, packed: bytes, offset: int) -> bytes:
    f: dict[str, Any] = {
        "name": entry.name,
        "method": entry.method,
        "flags": entry.flags | (DESCRIPTOR if entry.descriptor else 0),
        "crc": zlib.crc32(entry.data),
        "compressed": len(packed),
        "size": len(entry.data),
        "extra": entry.extra,
        "offset": offset,
        "disk": 0,
        "attributes": entry.mode << 16,
    } | dict(entry.central)
    if entry.zip64:
        wide = struct.pack("<QQQ", f["size"], f["compressed"], f["offset"])
        f["extra"] = extra(1, wide) + f["extra"]
        f["size"] = f["compressed"] = f["offset"] = MAX32
    head = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", entry.made_by, 20, f["flags"], f["method"], 0, 0x5821,
        f["crc"], f["compressed"], f["size"], len(f["name"]), len(f["extra"]),
        len(entry.comment), f["disk"], 0, f["attributes"], f["offset"],
    )  # fmt: skip
    return bytes(head + f["name"] + f["extra"] + entry.comment)


def build(
    *entries: Entry,
    comment: bytes = b"",
    leading: bytes = b"",
    trailing: bytes = b"",
    between: bytes = b"",
    zip64: bool = False,
    end: Mapping[str, int] | None = None,
    end64: Mapping[str, int] | None = None,
    shift: bool = True,
) -> bytes:
    """An archive of ``entries``; ``end`` and ``end64`` override fields of the end records.

    ``shift``: offsets count from the file's start even behind ``leading``.
    """
    body = bytearray(leading)
    base = 0 if shift else len(leading)
    directory = bytearray()
    for entry in entries:
        packed = entry.packed()
        directory += _central(entry, packed, len(body) - base)
        body += _local(entry, packed) + packed + _descriptor(entry, packed) + entry.after
    offset = len(body) - base
    f: dict[str, int] = {
        "disk": 0, "first": 0, "here": len(entries), "total": len(entries),
        "size": len(directory), "offset": offset,
    }  # fmt: skip
    body += directory + between
    if zip64:
        wide = f | dict(end64 or {})
        at = len(body)
        body += struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", wide.get("extent", 44), 45, 45, wide["disk"], wide["first"],
            wide["here"], wide["total"], wide["size"], wide["offset"],
        )  # fmt: skip
        body += struct.pack("<4sLQL", b"PK\6\7", 0, wide.get("at", at), wide.get("disks", 1))
        f |= {"here": MAX16, "total": MAX16, "size": MAX32, "offset": MAX32}
    f |= dict(end or {})
    body += struct.pack(
        "<4s4H2LH", b"PK\5\6", f["disk"], f["first"], f["here"], f["total"],
        f["size"], f["offset"], f.get("comment", len(comment)),
    )  # fmt: skip
    return bytes(body + comment + trailing)


def standard(files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """What Python's own writer makes of ``files``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def streamed(files: Mapping[str, bytes]) -> bytes:
    """The same from a writer that cannot seek: data descriptors."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.parts.append(bytes(data))
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return b"".join(pipe.parts)


def noise(size: int, seed: int = 7) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def fifield(kernel: int = 1 << 20, count: int = 250) -> bytes:
    """The overlapping bomb: every entry points at one kernel of data."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = bytes(kernel)
    packed = deflater.compress(data) + deflater.flush()
    entry = Entry(b"0", data, compressed=packed)
    body = _local(entry, packed) + packed
    directory = b"".join(
        _central(Entry(str(n).encode(), data, compressed=packed), packed, 0) for n in range(count)
    )
    return (
        body
        + directory
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    )


TEXT = "안녕하세요, Slipway.\n".encode()
A = Entry(b"a.txt", b"alpha\n")
B = Entry(b"dir/b.bin", noise(3000), method=0)
_KOREAN = "한글 폴더/보고서.txt"
_CP949 = _KOREAN.encode("cp949")
_NFC, _NFD = (unicodedata.normalize(form, "가나다.txt") for form in ("NFC", "NFD"))

GOOD: dict[str, tuple[bytes, dict[str, bytes]]] = {
    "plain": (build(A, B), {"a.txt": A.data, "dir/b.bin": B.data}),
    "empty archive": (build(), {}),
    "empty archive with a comment": (build(comment=b"nothing in it"), {}),
    "empty zip64 archive": (build(zip64=True), {}),
    "empty file": (
        build(Entry(b"void", b"", method=0), Entry(b"void8", b"")),
        {"void": b"", "void8": b""},
    ),
    "comment": (build(A, comment=b"made by hand"), {"a.txt": A.data}),
    "member comment": (build(Entry(b"a", b"1", comment=b"!" * 500)), {"a": b"1"}),
    "folder entries": (
        build(Entry(b"d/", mode=stat.S_IFDIR | 0o755, method=0), Entry(b"d/x", b"1")),
        {"d/x": b"1"},
    ),
    "directory not in the order of the data": (
        build(Entry(b"z", b"1" * 100), Entry(b"a", b"2" * 100)),
        {"z": b"1" * 100, "a": b"2" * 100},
    ),
    "descriptor with signature": (
        build(Entry(b"s", b"data" * 99, descriptor="signed"), A),
        {"s": b"data" * 99, "a.txt": A.data},
    ),
    "descriptor without signature": (
        build(Entry(b"s", b"data" * 99, descriptor="unsigned"), A),
        {"s": b"data" * 99, "a.txt": A.data},
    ),
    "zip64 descriptor": (
        build(Entry(b"s", b"data" * 99, descriptor="signed64"), A),
        {"s": b"data" * 99, "a.txt": A.data},
    ),
    "zip64 descriptor without signature": (
        build(Entry(b"s", b"data" * 99, descriptor="unsigned64")),
        {"s": b"data" * 99},
    ),
    "descriptor though the sizes are known": (
        build(
            Entry(
                b"s",
                b"data",
                descriptor="signed",
                local={"crc": zlib.crc32(b"data"), "size": 4, "compressed": 6},
            )
        ),
        {"s": b"data"},
    ),
    "descriptor flag, but no descriptor": (
        build(Entry(b"s", b"data", flags=DESCRIPTOR)),
        {"s": b"data"},
    ),
    "zip64 fields": (
        build(Entry(b"w", b"wide", zip64=True), B, zip64=True),
        {"w": b"wide", "dir/b.bin": B.data},
    ),
    "zip64 end that is not needed": (
        build(A, zip64=True, end={"here": 1, "total": 1}),
        {"a.txt": A.data},
    ),
    "bzip2": (build(Entry(b"b", b"bzip2 " * 5000, method=12)), {"b": b"bzip2 " * 5000}),
    "nested zip, stored": (build(Entry(b"in.zip", build(A), method=0)), {"in.zip": build(A)}),
    "nested zip, deflated": (build(Entry(b"in.zip", build(A))), {"in.zip": build(A)}),
    "extra fields": (
        build(Entry(b"a", b"1", extra=extra(0x5455, b"\3" + bytes(8)) + b"\0\0")),
        {"a": b"1"},
    ),
    "utf-8 flag": (build(Entry(_KOREAN.encode(), TEXT, flags=UTF8)), {_KOREAN: TEXT}),
    "utf-8 without the flag": (build(Entry(_KOREAN.encode(), TEXT)), {_KOREAN: TEXT}),
    "unicode extra field": (
        build(Entry(_CP949, TEXT, extra=unicode_path(_CP949, _KOREAN))),
        {_KOREAN: TEXT},
    ),
    "stale unicode extra field": (
        build(Entry(_CP949, TEXT, extra=unicode_path(_CP949, "other", crc=1))),
        {_KOREAN: TEXT},
    ),
    "cp949": (
        build(Entry(_CP949, TEXT, made_by=DOS), Entry("글".encode("cp949"), b"1")),
        {_KOREAN: TEXT, "글": b"1"},
    ),
    "cp437": (build(Entry("café.txt".encode("cp437"), b"1", made_by=DOS)), {"café.txt": b"1"}),
    "decomposed name": (build(Entry(_NFD.encode(), b"1", flags=UTF8)), {_NFD: b"1"}),
    "backslashes from Windows": (
        build(Entry(b"d\\e\\f.txt", b"1", made_by=DOS)),
        {"d/e/f.txt": b"1"},
    ),
    "dots that do not climb": (build(Entry(b"..a/b../...", b"1")), {"..a/b../...": b"1"}),
    "odd characters": (
        build(Entry(b"a b#c?d%41&+~[x]{y}*'\"|<>^`$!;=,@:.txt", b"1", flags=UTF8)),
        {"a b#c?d%41&+~[x]{y}*'\"|<>^`$!;=,@:.txt": b"1"},
    ),
    "symbolic link": (
        build(Entry(b"l", b"/etc/passwd", mode=stat.S_IFLNK | 0o777, method=0), A),
        {"a.txt": A.data},
    ),
    "device": (build(Entry(b"null", mode=stat.S_IFCHR | 0o666, method=0), A), {"a.txt": A.data}),
    "python's writer": (
        standard({"x/y.csv": b"1,2\n" * 9, "z": noise(70_000)}),
        {"x/y.csv": b"1,2\n" * 9, "z": noise(70_000)},
    ),
    "python's streaming writer": (streamed({"x.csv": b"1,2\n" * 999}), {"x.csv": b"1,2\n" * 999}),
    "signature of an end record in the data": (
        build(Entry(b"x", b"PK\5\6" * 50 + bytes(100), method=0)),
        {"x": b"PK\5\6" * 50 + bytes(100)},
    ),
}

_LIE = Entry(b"lie.txt", b"0123456789" * 10)
_plain = build(A, B)
_two = build(A) + b"" + build(B)

BAD: dict[str, tuple[bytes, Reason]] = {
    "nothing": (b"", Reason.NO_END_RECORD),
    "not a zip": (b"\x89PNG\r\n" + noise(500), Reason.NO_END_RECORD),
    "cut at the end": (_plain[:-5], Reason.NO_END_RECORD),
    "cut in the directory": (_plain[:-60], Reason.NO_END_RECORD),
    "cut at the beginning": (_plain[10:], Reason.CONTRADICTORY_END_RECORD),
    "first half only": (_plain[: len(_plain) // 2], Reason.NO_END_RECORD),
    "comment shorter than said": (
        build(A, comment=b"abc", end={"comment": 9}),
        Reason.NO_END_RECORD,
    ),
    "directory of size zero": (build(A, end={"size": 0}), Reason.CONTRADICTORY_END_RECORD),
    "directory of no entries": (
        build(A, end={"here": 0, "total": 0}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "no directory but data": (
        build(A, end={"here": 0, "total": 0, "size": 0}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "empty by its record, not by its size": (
        noise(200) + build(end={"offset": 200}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "fewer entries than listed": (
        build(A, B, end={"here": 1, "total": 1}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "more entries than listed": (
        build(A, B, end={"here": 3, "total": 3}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "directory elsewhere": (build(A, end={"offset": 1}), Reason.CONTRADICTORY_END_RECORD),
    "data between directory and end": (
        build(A, between=b"hidden"),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "zip64 record contradicts": (
        build(A, zip64=True, end={"here": 7, "total": 7}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "zip64 locator points nowhere": (
        build(A, zip64=True, end64={"at": 3}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "zip64 locator points behind": (
        build(A, zip64=True, end64={"at": 1 << 60}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "zip64 record of another length": (
        build(A, zip64=True, end64={"extent": 60}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "zip64 directory of size zero": (
        build(A, zip64=True, end64={"size": 0}),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "zip64 missing": (build(A, end={"offset": MAX32}), Reason.CONTRADICTORY_END_RECORD),
    "second end record in the comment": (build(A, comment=build()), Reason.SECOND_END_RECORD),
    "second archive in the comment": (build(A, comment=build(B)), Reason.SECOND_END_RECORD),
    "trailing bytes": (build(A, trailing=b"\n"), Reason.TRAILING_DATA),
    "trailing zeros": (build(A, trailing=bytes(4096)), Reason.TRAILING_DATA),
    "leading data, offsets shifted": (build(A, leading=b"#!/bin/sh\n"), Reason.LEADING_DATA),
    "leading data, offsets not shifted": (
        build(A, leading=b"#!/bin/sh\n", shift=False),
        Reason.LEADING_DATA,
    ),
    "comment cut, a nested zip's end record before": (
        build(Entry(b"in.zip", build(A), method=0), comment=b"four")[:-4],
        Reason.NO_END_RECORD,
    ),
    "two archives in a row": (build(A) + build(B), Reason.LEADING_DATA),
    "data between members": (build(Entry(b"x", b"1", after=b"hidden"), A), Reason.UNACCOUNTED_DATA),
    "a member that is not listed": (
        build(Entry(b"x", b"1", after=_local(A, A.packed()) + A.packed()), B),
        Reason.UNACCOUNTED_DATA,
    ),
    "data behind the deflate stream": (
        build(Entry(b"x", b"1" * 50, compressed=Entry(b"", b"1" * 50).packed() + b"tail")),
        Reason.UNACCOUNTED_DATA,
    ),
    "parts on several disks": (build(A, end={"disk": 1}), Reason.MULTI_DISK),
    "entries on another disk": (build(A, end={"here": 0}), Reason.MULTI_DISK),
    "member on another disk": (build(Entry(b"x", b"1", central={"disk": 2})), Reason.MULTI_DISK),
    "zip64 on several disks": (build(A, zip64=True, end64={"disks": 2}), Reason.MULTI_DISK),
    "extra field too long": (
        build(Entry(b"x", b"1", central={"extra": b"\x55\x54\xff\x00\0"})),
        Reason.MALFORMED_HEADER,
    ),
    "zip64 field too short": (
        build(Entry(b"x", b"1", central={"size": MAX32, "extra": extra(1, b"\1\0")})),
        Reason.MALFORMED_HEADER,
    ),
    "zip64 field missing": (
        build(Entry(b"x", b"1", central={"size": MAX32})),
        Reason.MALFORMED_HEADER,
    ),
    "zip64 field twice": (
        build(Entry(b"x", b"1", zip64=True, extra=extra(1, bytes(24)))),
        Reason.MALFORMED_HEADER,
    ),
    "member beyond the file": (
        build(A, Entry(b"x", b"1", central={"offset": 900})),
        Reason.OVERLAPPING_MEMBERS,
    ),
    "local header cut by the next": (
        build(
            Entry(
                b"x",
                b"",
                compressed=b"",
                method=0,
                local={"extra": extra(9, bytes(40))},
                central={"extra": b""},
            ),
            Entry(b"y", b"1", central={"offset": 40}),
        ),
        Reason.OVERLAPPING_MEMBERS,
    ),
    "name empty": (build(Entry(b"", b"1")), Reason.NAME_EMPTY),
    "name absolute": (build(Entry(b"/etc/passwd", b"1")), Reason.NAME_ABSOLUTE),
    "name absolute for Windows": (build(Entry(b"\\etc\\passwd", b"1")), Reason.NAME_ABSOLUTE),
    "name on a share": (build(Entry(b"\\\\host\\share", b"1", made_by=DOS)), Reason.NAME_ABSOLUTE),
    "name climbs": (build(A, Entry(b"../../evil", b"1")), Reason.NAME_CLIMBS),
    "name climbs in the middle": (build(Entry(b"a/../../evil", b"1")), Reason.NAME_CLIMBS),
    "name climbs at the end": (build(Entry(b"a/..", b"1")), Reason.NAME_CLIMBS),
    "name climbs for Windows": (build(Entry(b"a\\..\\..\\evil", b"1")), Reason.NAME_CLIMBS),
    "name climbs by its unicode field": (
        build(Entry(b"good", b"1", extra=unicode_path(b"good", "../evil"))),
        Reason.NAME_CLIMBS,
    ),
    "name climbs in an empty folder": (build(Entry(b"../", method=0)), Reason.NAME_CLIMBS),
    "name with a drive": (build(Entry(b"C:/windows", b"1")), Reason.NAME_DRIVE),
    "name with a drive further down": (build(Entry(b"a/C:/b", b"1")), Reason.NAME_DRIVE),
    "name with a drive behind a backslash": (build(Entry(b"a\\c:b", b"1")), Reason.NAME_DRIVE),
    "name with a drive, relative": (build(Entry(b"c:evil", b"1")), Reason.NAME_DRIVE),
    "name with NUL": (build(Entry(b"a.txt\0.exe", b"1")), Reason.NAME_CONTROL_CHARACTER),
    "name with a line feed": (build(Entry(b"a\nb", b"1")), Reason.NAME_CONTROL_CHARACTER),
    "name with DEL": (build(Entry(b"a\x7fb", b"1")), Reason.NAME_CONTROL_CHARACTER),
    "name with a C1 control": (
        build(Entry("a\u0085b".encode(), b"1", flags=UTF8)),
        Reason.NAME_CONTROL_CHARACTER,
    ),
    "name with an empty component": (build(Entry(b"a//b", b"1")), Reason.NAME_NOT_CLEAN),
    "name with a dot": (build(Entry(b"a/./b", b"1")), Reason.NAME_NOT_CLEAN),
    "name is a dot": (build(Entry(b".", b"1")), Reason.NAME_NOT_CLEAN),
    "name too long": (build(Entry(b"/".join([b"d" * 99] * 11), b"1")), Reason.NAME_TOO_LONG),
    "component too long": (build(Entry(b"n" * 256, b"1")), Reason.NAME_TOO_LONG),
    "name not the UTF-8 it claims": (
        build(Entry(b"\xff\xfe", b"1", flags=UTF8)),
        Reason.NAME_UNDECODABLE,
    ),
    "name an overlong UTF-8 slash": (
        build(Entry(b"..\xc0\xafevil", b"1", flags=UTF8)),
        Reason.NAME_UNDECODABLE,
    ),
    "unicode field not UTF-8": (
        build(
            Entry(
                b"a",
                b"1",
                extra=extra(0x7075, b"\1" + struct.pack("<I", zlib.crc32(b"a")) + b"\xff"),
            )
        ),
        Reason.NAME_UNDECODABLE,
    ),
    "two names for one member": (
        build(Entry(b"a", b"1", flags=UTF8, extra=unicode_path(b"a", "b"))),
        Reason.NAME_CONTRADICTORY,
    ),
    "a file below the manifest": (build(Entry(b"_manifest.json/x", b"1")), Reason.NAME_RESERVED),
    "a folder of the manifest's name": (build(Entry(b"_manifest.json/")), Reason.NAME_RESERVED),
    "the manifest's name": (build(Entry(b"_manifest.json", b"{}")), Reason.NAME_RESERVED),
    "name twice": (build(A, Entry(b"a.txt", b"other")), Reason.NAME_DUPLICATE),
    "name twice after normalisation": (
        build(Entry(_NFC.encode(), b"1", flags=UTF8), Entry(_NFD.encode(), b"2", flags=UTF8)),
        Reason.NAME_DUPLICATE,
    ),
    "name twice after backslashes": (
        build(Entry(b"d/x", b"1"), Entry(b"d\\x", b"2", made_by=DOS)),
        Reason.NAME_DUPLICATE,
    ),
    "file and folder of one name": (
        build(Entry(b"d", b"1"), Entry(b"d/x", b"2")),
        Reason.FILE_AS_FOLDER,
    ),
    "file and folder entry of one name": (
        build(Entry(b"d", b"1"), Entry(b"d/", method=0)),
        Reason.FILE_AS_FOLDER,
    ),
    "nothing but a link": (
        build(Entry(b"l", b"target", mode=stat.S_IFLNK | 0o777, method=0)),
        Reason.NO_FILES,
    ),
    "nothing but folders": (build(Entry(b"d/", method=0)), Reason.NO_FILES),
    "folder with data": (build(Entry(b"d/", b"1")), Reason.FOLDER_WITH_DATA),
    "local name differs": (
        build(Entry(b"a", b"1", local={"name": b"b"})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "local unicode name differs": (
        build(
            Entry(
                _CP949,
                TEXT,
                extra=unicode_path(_CP949, _KOREAN),
                central={"extra": unicode_path(_CP949, "other")},
            )
        ),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "local method differs": (
        build(Entry(b"a", b"1", local={"method": 0})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "local size differs": (
        build(Entry(b"a", b"1", local={"size": 2})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "local crc differs": (
        build(Entry(b"a", b"1", local={"crc": 2})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "local compressed size differs": (
        build(Entry(b"a", b"1", local={"compressed": 9})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "local says encrypted": (
        build(Entry(b"a", b"1", local={"flags": 1})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "local header is not there": (
        b"PX" + build(A)[2:],
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "streamed local size differs": (
        build(Entry(b"a", b"1", descriptor="signed", local={"size": 5})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "descriptor crc differs": (
        build(Entry(b"a", b"1", descriptor="signed", said={"crc": 1})),
        Reason.DESCRIPTOR_CONTRADICTS,
    ),
    "descriptor size differs": (
        build(Entry(b"a", b"1", descriptor="unsigned", said={"size": 9})),
        Reason.DESCRIPTOR_CONTRADICTS,
    ),
    "overlapping bomb": (fifield(), Reason.OVERLAPPING_MEMBERS),
    "members overlap": (
        build(Entry(b"a", b"x" * 90, method=0), Entry(b"b", b"1", central={"offset": 60})),
        Reason.OVERLAPPING_MEMBERS,
    ),
    "encrypted": (build(Entry(b"a", b"1", flags=ENCRYPTED)), Reason.ENCRYPTED),
    "one of two encrypted": (build(A, Entry(b"b", b"1", flags=ENCRYPTED)), Reason.ENCRYPTED),
    "strong encryption": (build(Entry(b"a", b"1", flags=ENCRYPTED | 1 << 6)), Reason.ENCRYPTED),
    "aes": (build(Entry(b"a", b"1", method=99, flags=ENCRYPTED)), Reason.ENCRYPTED),
    "directory encrypted": (build(Entry(b"a", b"1", flags=1 << 13)), Reason.ENCRYPTED),
    "method lzma": (build(Entry(b"a", b"1", method=14)), Reason.UNSUPPORTED_METHOD),
    "method deflate64": (build(Entry(b"a", b"1", method=9)), Reason.UNSUPPORTED_METHOD),
    "method zstd": (build(Entry(b"a", b"1", method=93)), Reason.UNSUPPORTED_METHOD),
    "method nobody knows": (build(Entry(b"a", b"1", method=1234)), Reason.UNSUPPORTED_METHOD),
    "size said too small": (
        build(Entry(b"lie", b"x" * 5000, local={"size": 9}, central={"size": 9})),
        Reason.WRONG_SIZE,
    ),
    "size said too large": (
        build(Entry(b"lie", b"x" * 50, local={"size": 999}, central={"size": 999})),
        Reason.WRONG_SIZE,
    ),
    "stored sizes differ": (
        build(Entry(b"lie", b"x" * 50, method=0, local={"size": 9}, central={"size": 9})),
        Reason.WRONG_SIZE,
    ),
    "bzip2 size said too small": (
        build(Entry(b"lie", b"x" * 5000, method=12, local={"size": 9}, central={"size": 9})),
        Reason.WRONG_SIZE,
    ),
    "wrong crc": (
        build(Entry(b"x", b"1234", local={"crc": 77}, central={"crc": 77})),
        Reason.WRONG_CRC,
    ),
    "wrong crc, stored": (
        build(Entry(b"x", b"1234", method=0, local={"crc": 77}, central={"crc": 77})),
        Reason.WRONG_CRC,
    ),
    "wrong crc, bad one last": (
        build(A, B, Entry(b"x", b"1234", local={"crc": 77}, central={"crc": 77})),
        Reason.WRONG_CRC,
    ),
    "deflate is noise": (
        build(Entry(b"x", b"1" * 200, compressed=b"\xff" * 60)),
        Reason.CORRUPT_DATA,
    ),
    "deflate is cut": (
        build(Entry(b"x", noise(500), compressed=Entry(b"", noise(500)).packed()[:-30])),
        Reason.CORRUPT_DATA,
    ),
    "bzip2 is cut": (
        build(Entry(b"x", noise(500), method=12, compressed=bz2.compress(noise(500))[:-30])),
        Reason.CORRUPT_DATA,
    ),
    "deflated to nothing": (build(Entry(b"x", b"1", compressed=b"")), Reason.CORRUPT_DATA),
}

# Refused for a budget: which archive and which limits are for the test to say.
BOMB = standard({"zeros.bin": bytes(40 << 20)})
BUDGET = {
    "too many members": (standard({str(n): b"" for n in range(21)}), Reason.TOO_MANY_MEMBERS),
    "too large in all": (standard({"a": noise(700), "b": noise(700)}), Reason.TOO_LARGE),
    "member too large": (standard({"a": noise(1100)}), Reason.MEMBER_TOO_LARGE),
}


def names(cases: Mapping[str, Sequence[Any]]) -> list[str]:
    """Test ids."""
    return [name.replace(" ", "-") for name in cases]
