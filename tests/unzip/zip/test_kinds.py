"""What a member is: nothing that holds data is ever left out of a published archive."""

from __future__ import annotations

import itertools
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unzip import zips
from tests.unzip.support import in_memory, verdict
from unzip.extract.extractor import Extractor
from unzip.extract.manifest import encoded, manifest
from unzip.refusals import Reason, Refused
from unzip.zip.kinds import Kind, kind_of
from unzip.zip.limits import LINK_TARGETS_BYTES, Limits

CASES = Path(__file__).parent / "cases"
_TYPES = [n << 12 for n in range(16)]  # every value of the mode's type, known and unknown
_SYSTEMS = [0, 3, 11, 19, 255]
_NAMES = [b"m", b"m/", b"./d/m"]
_DATA = [b"", b"x" * 4095, b"x" * 4096]


def _read(extractor: Extractor, data: bytes) -> dict[str, object]:
    source = in_memory(data)
    directory = extractor.read_directory(source, Limits())
    types = extractor.verify(source, directory.members, check=lambda: None)
    document = manifest(
        bucket="b", key="k", etag="e", size=1, directory=directory, types=types, seconds={}
    )
    read: dict[str, object] = json.loads(b"".join(encoded(document)))
    return read


def _archives() -> list[zips.Entry]:
    return [
        zips.Entry(
            name, data, method=method, made_by=system << 8 | 20, mode=0,
            central={"attributes": (mode | 0o644) << 16 | attributes},
        )
        for name, data, method, system, mode, attributes in itertools.product(
            _NAMES, _DATA, (0, 8), _SYSTEMS, _TYPES, (0, 0x10)
        )
    ]  # fmt: skip


def test_no_data_are_left_out_whatever_the_member_is_said_to_be(extractor: Extractor) -> None:
    """Every system, type, attribute, name and size: the member is there with its bytes, its
    target is named, or the archive is refused. Published with no file cannot happen."""
    kinds: set[str] = set()
    for entry in _archives():
        try:
            document = _read(extractor, zips.build(entry))
        except Refused as refusal:
            assert refusal.reason in (Reason.NO_FILES, Reason.FOLDER_WITH_DATA), entry
            if refusal.reason is Reason.NO_FILES:
                # Nothing was in it, or a link's target alone.
                assert not entry.data or (entry.central["attributes"] >> 28) == 0xA, entry
            kinds.add(refusal.reason)
            continue
        files = document["members"]
        assert isinstance(files, list)
        assert [row["size"] for row in files] == [len(entry.data)], entry
        kinds.add("published")
    assert kinds == {"published", Reason.NO_FILES, Reason.FOLDER_WITH_DATA}


@given(
    st.integers(0, 255),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.sampled_from(["a", "a/", "/"]),
)
def test_what_has_data_is_a_file_or_a_short_link(
    system: int, attributes: int, size: int, compressed: int, path: str
) -> None:
    try:
        kind = kind_of(
            path, made_by=system, attributes=attributes, size=size, compressed=compressed
        )
    except Refused as refusal:
        assert refusal.reason is Reason.FOLDER_WITH_DATA
        assert size and compressed
        return
    if kind is Kind.DEVICE:
        assert not size
    if kind is Kind.FOLDER:
        assert not (size and compressed)
    if kind is Kind.SYMBOLIC_LINK:
        assert size < 4096


def test_a_link_s_target_is_named_in_the_manifest(extractor: Extractor) -> None:
    link = zips.Entry(b"l", b"../a.txt", mode=stat.S_IFLNK | 0o777, method=0)
    document = _read(extractor, zips.build(link, zips.A))
    assert document["skipped"] == [
        {"path": "l", "reason": "symbolic_link", "size": 8, "target": "../a.txt"}
    ]


def test_a_member_archived_from_a_pipe_is_a_file(extractor: Extractor) -> None:
    """Found: `printf … | zip result.zip -` was published with no file."""
    data = (CASES / "00-piped-infozip.zip").read_bytes()
    found = verdict(extractor, data)
    assert isinstance(found, dict)
    assert list(found) == ["-"]


@pytest.mark.parametrize("case", ["08-bsdtar-dot", "09-bsdtar-nul-padded"])
def test_what_bsdtar_writes_is_read(extractor: Extractor, case: str) -> None:
    """Found: "./" in front, and zeros up to a tar record, were refused."""
    found = verdict(extractor, (CASES / f"{case}.zip").read_bytes())
    assert isinstance(found, dict)
    assert set(found) == {"a.csv", "empty", "sub/b.bin", "결과.txt"}


def test_the_targets_of_links_have_a_bound(extractor: Extractor) -> None:
    """Found: a hundred thousand links, which a small archive may hold, kept 400 MB of targets in
    memory that no budget counted."""

    def archive(count: int) -> bytes:
        link = stat.S_IFLNK | 0o777
        return zips.build(
            zips.A, *[zips.Entry(b"%d" % n, b"t" * 4095, mode=link) for n in range(count)]
        )

    most = LINK_TARGETS_BYTES // 4095
    assert isinstance(verdict(extractor, archive(most)), dict)
    assert verdict(extractor, archive(most + 1)) is Reason.DIRECTORY_TOO_LARGE
