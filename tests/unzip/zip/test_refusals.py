"""Every bad kind is refused with its reason, every good kind is kept, byte for byte."""

from __future__ import annotations

import bz2
import dataclasses
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.unzip import zips
from tests.unzip.support import in_memory, verdict
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.refusals import Reason, Refused
from unzip.zip import member_data
from unzip.zip.limits import Limits


@pytest.mark.parametrize(("data", "reason"), zips.BAD.values(), ids=zips.names(zips.BAD))
def test_bad_archive_is_refused(extractor: Extractor, data: bytes, reason: Reason) -> None:
    assert verdict(extractor, data) is reason


@pytest.mark.parametrize(("data", "files"), zips.GOOD.values(), ids=zips.names(zips.GOOD))
def test_good_archive_is_kept(extractor: Extractor, data: bytes, files: dict[str, bytes]) -> None:
    assert verdict(extractor, data) == {
        path: (len(body), zlib.crc32(body)) for path, body in files.items()
    }


@pytest.mark.parametrize(("data", "reason"), zips.BUDGET.values(), ids=zips.names(zips.BUDGET))
def test_budget(extractor: Extractor, data: bytes, reason: Reason) -> None:
    limits = Limits(members=20, total_bytes=1200, member_bytes=1000)
    assert verdict(extractor, data, limits) is reason
    assert isinstance(verdict(extractor, data), dict)


def test_ratio_counts_above_the_free_bytes_only(extractor: Extractor) -> None:
    assert verdict(extractor, zips.BOMB) is Reason.RATIO_TOO_HIGH
    assert isinstance(verdict(extractor, zips.BOMB, Limits(ratio_free_bytes=64 << 20)), dict)


class _Counting:
    """A decoder that says how much came out of it."""

    def __init__(self, decoder: Any, produced: list[int]) -> None:
        self._decoder = decoder
        self._produced = produced

    def decompress(self, *args: Any) -> bytes:
        out: bytes = self._decoder.decompress(*args)
        self._produced.append(len(out))
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


@pytest.mark.parametrize("method", [8, 12])
@pytest.mark.parametrize("size", [1 << 10, 60_000, 5 << 20])
def test_a_liar_is_stopped_one_byte_past_its_size(
    monkeypatch: pytest.MonkeyPatch, size: int, method: int
) -> None:
    """Found: what was streamed went on to the end of the decoder's buffer, up to 8 MiB."""
    produced: list[int] = []
    deflate, bzip2 = member_data.inflater.decompressobj, bz2.BZ2Decompressor
    monkeypatch.setattr(
        member_data.inflater, "decompressobj", lambda **kinds: _Counting(deflate(**kinds), produced)
    )
    monkeypatch.setattr(member_data.bz2, "BZ2Decompressor", lambda: _Counting(bzip2(), produced))
    said = {"size": size}
    entry = zips.Entry(b"b", bytes(size + 4_000_000), method=method, local=said, central=said)
    data = zips.build(entry)
    for part_bytes in (1 << 20, 8 << 20):
        produced.clear()
        with Extractor(Options(readers=1, writers=1, part_bytes=part_bytes)) as narrow:
            assert verdict(narrow, data) is Reason.WRONG_SIZE
        assert sum(produced) == size + 1


def test_long_names_are_not_collected(extractor: Extractor) -> None:
    """Found: every name, up to 64 KiB, was kept until the whole directory had been read."""
    entries = [zips.Entry(b"%065000d" % n, local={"name": b"short"}) for n in range(200)]
    source = in_memory(zips.build(*entries))
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as refusal:
            extractor.read_directory(source, Limits())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refusal.value.reason is Reason.NAME_TOO_LONG
    assert len(refusal.value.member) <= 1024
    assert peak < 5 << 20


@pytest.mark.parametrize(
    "data", [zips.GOOD[name][0] for name in ("plain", "bzip2", "zip64 fields")]
)
def test_large_members_are_read_as_small_ones_are(data: bytes, extractor: Extractor) -> None:
    """The same archive through the streaming path: every member counts as large there."""
    with Extractor(dataclasses.replace(Options(), span_bytes=64, part_bytes=0)) as narrow:
        # A local header needs to be in the first piece; these fit.
        assert verdict(narrow, data) == verdict(extractor, data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        zips.BAD[name]
        for name in zips.BAD
        if "crc" in name or "deflate" in name or "descriptor" in name or "said" in name
    ],
)
def test_large_bad_members_are_refused_as_small_ones_are(data: bytes, reason: Reason) -> None:
    with Extractor(dataclasses.replace(Options(), span_bytes=256, part_bytes=0)) as narrow:
        assert verdict(narrow, data) is reason


_WITHOUT_ISAL = """
import sys, zlib
sys.modules["isal.isal_zlib"] = None
from tests.unzip import zips
from tests.unzip.support import OPTIONS, verdict
from unzip.zip import member_data
from unzip.extract.extractor import Extractor
assert member_data.inflater is zlib
with Extractor(OPTIONS) as extractor:
    for name, (data, reason) in zips.BAD.items():
        assert verdict(extractor, data) is reason, name
    for name, (data, files) in zips.GOOD.items():
        expected = {path: (len(body), zlib.crc32(body)) for path, body in files.items()}
        assert verdict(extractor, data) == expected, name
    large = {"large": zips.noise(5 << 20) + bytes(9 << 20)}
    assert len(verdict(extractor, zips.standard(large))) == 1
print("as with it")
"""


def test_without_isal_the_verdicts_are_the_same() -> None:
    """Platforms without its wheel inflate with zlib, whole and in chunks."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_ISAL],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "as with it\n", done.stderr


def test_every_reason_has_a_fixture() -> None:
    tested = {reason for _, reason in (*zips.BAD.values(), *zips.BUDGET.values())}
    elsewhere = {
        Reason.RATIO_TOO_HIGH,  # above
        Reason.DIRECTORY_TOO_LARGE,  # test_memory
        Reason.TOO_SLOW,  # test_worker
        Reason.TOO_MANY_ATTEMPTS,  # test_worker
    }
    assert tested | elsewhere == set(Reason)


def test_every_reason_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs/unzip/refusals.md").read_text()
    assert [reason for reason in Reason if f"| `{reason}` |" not in page] == []
