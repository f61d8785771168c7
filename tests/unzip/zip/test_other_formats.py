"""What whoever sent something else than a zip is told."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import unicodedata

import pytest

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.commands.test_commands import unzip
from tests.unzip.support import in_memory, put, service_on
from unzip.announce.targets import render
from unzip.extract.content_types import Probe
from unzip.extract.extractor import Extractor
from unzip.refusals import Reason, Refused
from unzip.s3.client import S3
from unzip.zip.limits import Limits


def _refused(extractor: Extractor, data: bytes) -> Refused:
    with pytest.raises(Refused) as refusal:
        extractor.read_directory(in_memory(data), Limits())
    return refusal.value


def _tar(mode: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as tar:  # type: ignore[call-overload]
        info = tarfile.TarInfo("a.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    return target.getvalue()


_ZIP = zips.standard({"a.txt": b"x" * 100, "b.txt": b"y"})
OTHERS = {
    "nothing": (b"", "the file is empty"),
    "tar": (_tar("w"), "no zip but a tar"),
    "tar.gz": (_tar("w:gz"), "no zip but gzip"),
    "gzip": (gzip.compress(b"x"), "no zip but gzip"),
    "bzip2": (bz2.compress(b"x"), "no zip but bzip2"),
    "xz": (lzma.compress(b"x"), "no zip but xz"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(80), "no zip but a 7z"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(80), "no zip but a RAR"),
    "egg": (b"EGGA" + bytes(80), "no zip but an EGG"),
    "a web page": (b"\n <!DOCTYPE html><p>403</p>", "no zip but a web page"),
    "S3's error": (b"<?xml version='1.0'?><Error/>", "no zip but an XML"),
    "JSON": (b'{"error": "not logged in"}', "no zip but JSON"),
    "a pdf": (b"%PDF-1.7\n" + bytes(80), "no zip but a PDF"),
    "cut": (_ZIP[:-30], "the upload was cut short"),
    "the first part": (_ZIP[:60], "the first part of an archive in parts"),
    "a part that says so": (b"PK\x07\x08" + _ZIP[:60], "the first part of an archive in parts"),
    "noise": (zips.noise(3000), "no zip, or its end is missing"),
}


@pytest.mark.parametrize("name", zips.names(OTHERS))
def test_what_is_no_zip_is_named(extractor: Extractor, name: str) -> None:
    """Found: an error page, a .tar.gz and a cut upload were all "no whole end record"."""
    data, expected = OTHERS[name.replace("-", " ")]
    error = _refused(extractor, data)
    assert error.reason is Reason.NO_END_RECORD
    assert expected in error.detail


def test_a_self_extracting_archive_is_named(extractor: Extractor) -> None:
    """Found: with offsets from the archive's own beginning it was a contradictory end record."""
    error = _refused(extractor, b"MZ" + bytes(500) + _ZIP)
    assert error.reason is Reason.LEADING_DATA
    assert error.detail.startswith("502 bytes come before the archive: a self-extracting one")


def test_offsets_that_lead_nowhere_are_still_contradictory(extractor: Extractor) -> None:
    assert _refused(extractor, bytes(300) + _ZIP[4:]).reason is Reason.CONTRADICTORY_END_RECORD


def test_names_that_look_alike_are_shown_apart(extractor: Extractor) -> None:
    """Found: "two members have this name: '보고서.txt' and '보고서.txt'"."""
    names = [unicodedata.normalize(form, "보고서.txt") for form in ("NFC", "NFD")]
    entries = [zips.Entry(name.encode(), b"1", flags=zips.UTF8) for name in names]
    error = _refused(extractor, zips.build(*entries))
    assert error.reason is Reason.NAME_DUPLICATE
    assert all(ascii(name) in error.detail for name in names)


def test_a_component_that_is_too_long_says_how_long(extractor: Extractor) -> None:
    entry = zips.Entry(("가" * 90 + ".txt").encode(), b"1", flags=zips.UTF8)
    assert "274 bytes of UTF-8" in _refused(extractor, zips.build(entry)).detail


def test_status_and_slack_name_the_member(
    s3_server: S3Server, store: S3, bucket: str, extractor: Extractor
) -> None:
    """Found: which of the members has the bad name was said in the log alone."""
    put(store, "[bold]/result.zip", zips.build(zips.A, zips.Entry(b"x/[/c]:d", b"1")))
    put(store, "kim/result.zip", zips.build(zips.A, zips.Entry(b"x/c:d", b"1")))
    service_on(store, extractor).sweep()
    shown = unzip(s3_server, bucket, "status").stdout
    assert "(member 'x/c:d')" in shown
    assert "[bold]/result.zip" in shown  # a name is no markup
    rows = json.loads(unzip(s3_server, bucket, "status", "kim/result.zip", "--json").stdout)
    assert rows[0]["member"] == "x/c:d"
    event = {
        "id": "1",
        "data": {
            "outcome": "refused",
            "reason": "name_drive",
            "detail": "why",
            "member": "x/<c>:d",
        },
    }
    assert render("{detail}", event) == " name_drive: why (member x/&lt;c&gt;:d)"


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("__MACOSX/._p.jpg", b"\0\5\26\7\0\2\0\0", "application/applefile"),
        ("__MACOSX/._p.txt", b"\0\5\26\7\0\2\0\0", "application/applefile"),
        ("._p.txt", b"text", "text/plain; charset=utf-8"),
        ("p.jpg", b"\0\5\26\7\0\2\0\0", "image/jpeg"),
        ("._p.jpg", b"", "image/jpeg"),
    ],
)
def test_what_macos_keeps_beside_a_picture_is_no_picture(
    path: str, data: bytes, expected: str
) -> None:
    """Found: the attributes of a picture, `__MACOSX/._p.jpg`, were an image/jpeg."""
    probe = Probe(path)
    probe.feed(data)
    assert probe.content_type() == expected
