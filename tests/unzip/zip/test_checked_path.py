"""What path a member's name leads to, at the edges of each rule; no archive is built for it."""

from __future__ import annotations

import unicodedata

import pytest

from unzip.refusals import Reason, Refused
from unzip.zip.names import _CONTROL, MAX_COMPONENT_BYTES, checked_path

_DOS, _UNIX, _NTFS, _VFAT = 0, 3, 10, 14


def _path(name: str, made_by: int = _UNIX, limit: int = 900) -> str | Reason:
    try:
        return checked_path(name, made_by=made_by, limit=limit)
    except Refused as error:
        return error.reason


@pytest.mark.parametrize(
    ("name", "made_by", "path"),
    [
        ("d\\e", _DOS, "d/e"),
        ("d\\e", _NTFS, "d/e"),
        ("d\\e", _VFAT, "d/e"),
        ("d\\e\\", _DOS, "d/e/"),
        ("d/e\\f", _DOS, "d/e\\f"),  # one slash shows that the writer knows the format
        ("d\\e/", _DOS, "d\\e/"),
        ("d\\e", _UNIX, "d\\e"),
        ("d\\..\\e", _UNIX, Reason.NAME_CLIMBS),
        ("\\d", _UNIX, Reason.NAME_ABSOLUTE),
    ],
)
def test_backslashes_separate_only_in_names_of_dos_without_a_slash(
    name: str, made_by: int, path: str | Reason
) -> None:
    assert _path(name, made_by) == path


@pytest.mark.parametrize("character", ["a", "é", "한", "😀"])
def test_a_path_may_have_exactly_the_bytes_that_a_key_has(character: str) -> None:
    width = len(character.encode())
    name = "/".join([character * (MAX_COMPONENT_BYTES // width)] * 3)
    size = len(name.encode())
    assert _path(name, limit=size) == name
    assert _path("./" + name, limit=size) == name
    assert _path(name, limit=size - 1) is Reason.NAME_TOO_LONG
    assert _path(name + "/", limit=size) is Reason.NAME_TOO_LONG


@pytest.mark.parametrize("character", ["a", "é", "한", "😀"])
def test_a_component_may_have_exactly_the_bytes_that_a_file_name_has(character: str) -> None:
    width = len(character.encode())
    longest = character * (MAX_COMPONENT_BYTES // width) + "a" * (MAX_COMPONENT_BYTES % width)
    assert _path(f"d/{longest}/e") == f"d/{longest}/e"
    assert _path(f"d/{longest}a/e") is Reason.NAME_TOO_LONG


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("", Reason.NAME_EMPTY),
        ("./", "/"),
        ("././a", "a"),
        ("a/", "a/"),
        ("a//b", Reason.NAME_NOT_CLEAN),
        ("a/./b", Reason.NAME_NOT_CLEAN),
        (".//a", Reason.NAME_NOT_CLEAN),
        ("a/..", Reason.NAME_CLIMBS),
        ("a/..b", "a/..b"),
        ("/a", Reason.NAME_ABSOLUTE),
        ("c:/a", Reason.NAME_DRIVE),
        ("a/Z:b", Reason.NAME_DRIVE),
        ("1:a", "1:a"),
        ("Icon\r", "Icon\r"),
        ("d/._Icon\r", "d/._Icon\r"),
        ("Icon2\r", Reason.NAME_CONTROL_CHARACTER),
        ("a\x00", Reason.NAME_CONTROL_CHARACTER),
        ("a\x85", Reason.NAME_CONTROL_CHARACTER),
    ],
)
def test_each_rule_at_its_edge(name: str, path: str | Reason) -> None:
    assert _path(name) == path


def test_no_control_character_of_unicode_is_in_a_path() -> None:
    refused = {chr(code) for code in range(0x110000) if _CONTROL.search(chr(code))}
    assert refused == {
        char for char in map(chr, range(0x110000)) if unicodedata.category(char) in ("Cc", "Cs")
    }
    for char in "\0\x1f\x7f\x9f\ud800\udfff":
        assert _path(f"a{char}b") == Reason.NAME_CONTROL_CHARACTER
