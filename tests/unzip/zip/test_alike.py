"""What every reader takes alike is kept, the least beyond it is refused; limits to the byte."""

from __future__ import annotations

import stat
import struct
import unicodedata
import zlib

import pytest

from tests.unzip import zips
from tests.unzip.support import in_memory, verdict
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.refusals import Reason, Refused
from unzip.zip.limits import Limits
from unzip.zip.signing_block import MAGIC

A, B = zips.A, zips.B
_FOLDER = zips.Entry(b"d/", method=0, mode=stat.S_IFDIR | 0o755)
_SIZED = {"size": 4096, "crc": 77}
_ICON = zips.Entry(b"__MACOSX/._Icon\r", b"resource")
_LOCATOR = b"PK\6\7" + bytes(12) + struct.pack("<L", 1)


def _padded(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def signing_block(pairs: bytes = b"pairs", *, again: int | None = None) -> bytes:
    length = len(pairs) + 24
    return (
        struct.pack("<Q", length)
        + pairs
        + struct.pack("<Q", length if again is None else again)
        + MAGIC
    )


ALIKE: dict[str, tuple[bytes, set[str]]] = {
    "dot folder": (zips.build(zips.Entry(b"./", method=0), zips.Entry(b"./a", b"1")), {"a"}),
    "dot in front, twice": (zips.build(zips.Entry(b"././d/a", b"1")), {"d/a"}),
    "dot folder as a mode says": (
        zips.build(zips.Entry(b"./", mode=stat.S_IFDIR, method=0), A),
        {"a.txt"},
    ),
    "zeros to a tar block": (_padded(zips.build(A), 512), {"a.txt"}),
    "zeros to a tar record": (_padded(zips.build(A, B, zip64=True), 10_240), {"a.txt", B.name}),
    "zeros behind a comment": (_padded(zips.build(A, comment=b"hi\0"), 512), {"a.txt"}),
    "a locator's signature in a comment": (
        zips.build(zips.Entry(b"x", b"1", comment=b"!" + _LOCATOR)),
        {"x"},
    ),
    "the descriptor flag in the local header only": (
        zips.build(zips.Entry(b"x", b"data", local={"flags": zips.DESCRIPTOR})),
        {"x"},
    ),
    "the descriptor flag in the directory only": (
        zips.build(zips.Entry(b"x", b"data", central={"flags": zips.DESCRIPTOR})),
        {"x"},
    ),
    "a descriptor that the local header alone announces": (
        zips.build(zips.Entry(b"x", b"data", descriptor="signed", central={"flags": 0}), A),
        {"x", "a.txt"},
    ),
    "the UTF-8 flag of an ASCII name in one header only": (
        zips.build(zips.Entry(b"x", b"1", local={"flags": zips.UTF8})),
        {"x"},
    ),
    "the UTF-8 flag of a UTF-8 name in one header only": (
        zips.build(zips.Entry("글".encode(), b"1", central={"flags": zips.UTF8})),
        {"글"},
    ),
    "a folder twice": (zips.build(_FOLDER, _FOLDER, zips.Entry(b"d/x", b"1")), {"d/x"}),
    "a folder with its own size": (
        zips.build(
            zips.Entry(b"d/", method=0, compressed=b"", local=_SIZED, central=_SIZED), A
        ),
        {"a.txt"},
    ),
    "a folder with a size in one header": (
        zips.build(zips.Entry(b"d/", method=0, compressed=b"", central=_SIZED), A),
        {"a.txt"},
    ),
    "a deflated folder": (zips.build(zips.Entry(b"d/"), A), {"a.txt"}),
    "a folder by its MS-DOS attribute": (
        zips.build(
            zips.Entry(b"d", method=0, made_by=zips.DOS, central={"attributes": 0x10}),
            zips.Entry(b"d\\x", b"1", made_by=zips.DOS),
        ),
        {"d/x"},
    ),
    "a folder by its mode": (
        zips.build(zips.Entry(b"d", method=0, mode=stat.S_IFDIR | 0o755), zips.Entry(b"d/x", b"1")),
        {"d/x"},
    ),
    "the Finder's icon": (
        zips.build(zips.Entry(b"Icon\r", method=0), _ICON),
        {"Icon\r", "__MACOSX/._Icon\r"},
    ),
    "backslashes of DOS beside a slash": (
        zips.build(zips.Entry(b"d/e\\f", b"1", made_by=zips.DOS)),
        {"d/e\\f"},
    ),
    "backslashes of Unix": (zips.build(zips.Entry(b"d\\e", b"1")), {"d\\e"}),
}  # fmt: skip

NOT_ALIKE: dict[str, tuple[bytes, Reason]] = {
    "a file that is a dot": (zips.build(zips.Entry(b"./", b"1")), Reason.FOLDER_WITH_DATA),
    "a dot behind the front": (zips.build(zips.Entry(b"./a/./b", b"1")), Reason.NAME_NOT_CLEAN),
    "dots that climb behind a dot": (zips.build(zips.Entry(b"./../b", b"1")), Reason.NAME_CLIMBS),
    "twins by the dot": (zips.build(A, zips.Entry(b"./a.txt", b"1")), Reason.NAME_DUPLICATE),
    "the manifest behind a dot": (
        zips.build(zips.Entry(b"./_manifest.json", b"{}")),
        Reason.NAME_RESERVED,
    ),
    "a root behind a dot": (zips.build(zips.Entry(b".//etc", b"1")), Reason.NAME_NOT_CLEAN),
    "zeros that fill no block": (_padded(zips.build(A), 512) + bytes(1), Reason.TRAILING_DATA),
    "zeros of more than a record": (
        _padded(zips.build(A), 512) + bytes(10_240),
        Reason.TRAILING_DATA,
    ),
    "a byte in the zeros": (_padded(zips.build(A), 512)[:-1] + b"x", Reason.TRAILING_DATA),
    "two end records before zeros": (
        _padded(zips.build(A, comment=zips.build()), 512),
        Reason.SECOND_END_RECORD,
    ),
    "a locator in a comment whose record is there": (
        zips.build(
            zips.Entry(b"x", b"PK\6\6" + bytes(60), method=0,
                       comment=b"PK\6\7" + struct.pack("<LQL", 0, 31, 1))
        ),
        Reason.CONTRADICTORY_END_RECORD,
    ),
    "a descriptor that only the directory announces": (
        zips.build(
            zips.Entry(b"x", b"data", descriptor="signed",
                       local={"flags": 0, "crc": zlib.crc32(b"data"), "size": 4, "compressed": 6})
        ),
        Reason.UNACCOUNTED_DATA,
    ),
    "encrypted in the directory only": (
        zips.build(zips.Entry(b"x", b"1", central={"flags": 1})),
        Reason.ENCRYPTED,
    ),
    "the UTF-8 flag of another name in one header only": (
        zips.build(zips.Entry("보고서".encode("cp949"), b"1", central={"flags": zips.UTF8})),
        Reason.NAME_UNDECODABLE,
    ),
    "the UTF-8 flag where the directory does not say": (
        zips.build(zips.Entry("보고서".encode("cp949"), b"1", local={"flags": zips.UTF8})),
        Reason.LOCAL_HEADER_CONTRADICTS,
    ),
    "a folder by its attribute, with data": (
        zips.build(zips.Entry(b"d", b"1", made_by=zips.DOS, central={"attributes": 0x10})),
        Reason.FOLDER_WITH_DATA,
    ),
    "a carriage return in another name": (
        zips.build(zips.Entry(b"Icon2\r", b"1")),
        Reason.NAME_CONTROL_CHARACTER,
    ),
    "twins in two normal forms, one in a folder of another form": (
        zips.build(
            *(zips.Entry(unicodedata.normalize(form, "é/가").encode(), b"1", flags=zips.UTF8)
              for form in ("NFC", "NFD"))
        ),
        Reason.NAME_DUPLICATE,
    ),
    "a file in the other form of a folder": (
        zips.build(
            zips.Entry(unicodedata.normalize("NFC", "é").encode(), b"1", flags=zips.UTF8),
            zips.Entry(unicodedata.normalize("NFD", "é/x").encode(), b"1", flags=zips.UTF8),
        ),
        Reason.FILE_AS_FOLDER,
    ),
    "a signing block": (
        zips.build(zips.Entry(b"x", b"1", after=signing_block())),
        Reason.UNACCOUNTED_DATA,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "paths"), ALIKE.values(), ids=zips.names(ALIKE))
def test_what_readers_take_alike_is_kept(
    extractor: Extractor, data: bytes, paths: set[str | bytes]
) -> None:
    found = verdict(extractor, data)
    assert isinstance(found, dict), found
    assert set(found) == {p.decode() if isinstance(p, bytes) else p for p in paths}


@pytest.mark.parametrize(("data", "reason"), NOT_ALIKE.values(), ids=zips.names(NOT_ALIKE))
def test_what_readers_take_otherwise_is_refused(
    extractor: Extractor, data: bytes, reason: Reason
) -> None:
    assert verdict(extractor, data) is reason


def test_a_locator_s_signature_in_a_name_is_no_locator(extractor: Extractor) -> None:
    """Found: `contradictory_end_record`; the name is refused for what it holds."""
    data = zips.build(zips.Entry(b"n" + _LOCATOR, b"1"))
    assert verdict(extractor, data) is Reason.NAME_CONTROL_CHARACTER


def test_a_signing_block_is_accepted_by_setting() -> None:
    with Extractor(Options(readers=1, writers=1, signing_block=True)) as extractor:
        for after in (b"", signing_block(), signing_block(bytes(5000))):
            found = verdict(extractor, zips.build(A, zips.Entry(b"x", b"1", after=after)))
            assert isinstance(found, dict), after
        for after in (signing_block(again=40), b"hidden" + signing_block(), MAGIC):
            data = zips.build(zips.Entry(b"x", b"1", after=after))
            assert verdict(extractor, data) is Reason.UNACCOUNTED_DATA


def test_without_the_setting_the_refusal_names_it(extractor: Extractor) -> None:
    source = in_memory(NOT_ALIKE["a signing block"][0])
    listed = extractor.read_directory(source, Limits()).members
    with pytest.raises(Refused, match="UNZIP_SIGNING_BLOCK"):
        extractor.verify(source, listed, check=lambda: None)


def _encrypted_directory(algorithm: int = 0x6610, method: int = 8) -> bytes:
    """As PKZIP writes it (APPNOTE 7.3): masked local headers, a ZIP64 record of version 2."""
    entry = zips.Entry(b"1", b"secret", flags=1 << 13 | 1 << 6 | 1)
    local = zips.build(entry)[: 31 + len(entry.packed())]
    hidden = zips.noise(100)
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 72, 62, 62, 0, 0, 0, 2, len(hidden), len(local)
    ) + struct.pack("<H2Q5H", method, 100, 92, algorithm, 256, 1, 0, 0)
    at = len(local) + len(hidden)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0xFFFF, len(hidden), len(local), 0)
    return local + hidden + record + locator + end


def test_an_encrypted_directory_is_called_so(extractor: Extractor) -> None:
    """Found: `multi_disk`, because its count of entries is hidden."""
    assert verdict(extractor, _encrypted_directory()) is Reason.ENCRYPTED
    assert verdict(extractor, _encrypted_directory(0)) is Reason.UNSUPPORTED_METHOD


def test_members_may_touch_but_not_share_a_byte(extractor: Extractor) -> None:
    first = zips.Entry(b"a", b"x" * 90, method=0)
    end = 30 + 1 + 90
    for offset, reason in ((end, None), (end - 1, Reason.OVERLAPPING_MEMBERS)):
        data = zips.build(first, zips.Entry(b"b", b"1", central={"offset": offset}))
        found = verdict(extractor, data)
        assert (found if isinstance(found, Reason) else None) is reason
    # The local header alone may say that a name or an extra field is longer.
    longer = zips.Entry(b"a", b"x", method=0, local={"extra": b"\0"}, central={"extra": b""})
    assert isinstance(verdict(extractor, zips.build(longer, A)), dict)
    short = zips.build(longer, zips.Entry(b"b", b"1", central={"offset": 32}))
    assert verdict(extractor, short) is Reason.OVERLAPPING_MEMBERS


def test_the_ratio_counts_to_the_byte(extractor: Extractor) -> None:
    data = zips.standard({"z": bytes(1 << 20)})
    exact = (1 << 20) / len(data)
    for ratio, free, good in (
        (exact, 0, True),
        (exact * 0.9999, 0, False),
        (exact / 2, 0, False),
        (1.0, 1 << 20, True),
        (1.0, (1 << 20) - 1, False),
    ):
        found = verdict(extractor, data, Limits(ratio=ratio, ratio_free_bytes=free))
        assert (found is Reason.RATIO_TOO_HIGH) is not good, (ratio, free)


def test_a_key_may_be_as_long_as_it_may(extractor: Extractor) -> None:
    limit = Limits().name_bytes
    for text, count in (("a", 1), ("한", 3), ("😀", 4)):
        component = text * (200 // count)
        for prefix in ("", "./"):
            for extra, good in ((0, True), (1, False)):
                fill = limit - len(component.encode()) * 4 - 4 + extra
                name = "/".join([component] * 4) + "/" + "b" * fill
                data = zips.build(zips.Entry((prefix + name).encode(), b"1", flags=zips.UTF8))
                found = verdict(extractor, data)
                assert (found is Reason.NAME_TOO_LONG) is not good, (text, prefix, extra)
    for length, good in ((255, True), (256, False)):
        found = verdict(extractor, zips.build(zips.Entry(b"c" * length, b"1")))
        assert (found is Reason.NAME_TOO_LONG) is not good


def test_every_budget_is_met_to_the_member_and_byte(extractor: Extractor) -> None:
    data = zips.standard({"a": b"1234", "b": b"56"})
    exact = {"members": 2, "total_bytes": 6, "member_bytes": 4}
    assert isinstance(verdict(extractor, data, Limits(**exact)), dict)  # type: ignore[arg-type]
    for name, value in exact.items():
        less = Limits(**exact | {name: value - 1})  # type: ignore[arg-type]
        assert isinstance(verdict(extractor, data, less), Reason), name
