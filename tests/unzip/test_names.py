"""Names: the order of decoding, and the choice that is recorded."""

from __future__ import annotations

import pytest

from tests.unzip import zips
from tests.unzip.support import in_memory
from unzip.directory import Limits
from unzip.extract import Extractor
from unzip.names import guess_encoding


@pytest.mark.parametrize(
    ("case", "source"),
    [
        ("plain", "ascii"),
        ("utf-8 flag", "utf-8-flag"),
        ("unicode extra field", "unicode-extra"),
        ("stale unicode extra field", "cp949"),
        ("utf-8 without the flag", "utf-8"),
        ("cp949", "cp949"),
        ("cp437", "cp437"),
    ],
)
def test_the_choice_is_recorded(extractor: Extractor, case: str, source: str) -> None:
    directory = extractor.read_directory(in_memory(zips.GOOD[case][0]), Limits())
    assert directory.members[0].name_source == source


def test_one_choice_for_all_names_of_an_archive() -> None:
    korean = "한글".encode("cp949")
    assert guess_encoding([korean]) == "cp949"
    # The second name is no CP949, so neither was the first.
    assert guess_encoding([korean, b"caf\x82."]) == "cp437"
    assert guess_encoding(["é".encode(), "글".encode()]) == "utf-8"
