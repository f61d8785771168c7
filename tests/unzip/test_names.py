"""Names: the order of decoding, and the choice that is recorded."""

from __future__ import annotations

import contextlib
import random

import pytest
from babel import Locale
from pydantic import ValidationError

from tests.unzip import zips
from tests.unzip.support import in_memory, settings_for
from unzip.charsets import Decision, decide
from unzip.directory import Limits
from unzip.extract import Extractor, Options
from unzip.refusals import Refused


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
    korean = "보고서".encode("cp949")
    assert decide([korean]).charset == "cp949"
    # The second name is no CP949, so neither was the first.
    assert decide([korean, b"caf\x82."]).charset != "cp949"
    assert decide(["é".encode(), "글".encode()]) == Decision("utf-8")


def test_western_names_are_not_taken_for_korean() -> None:
    """Found: `Ölfässer.txt` became `셪f꼜ser.txt`."""
    assert decide(["Ölfässer.txt".encode("cp437")], {0}).charset in ("cp437", "cp850")
    assert decide(["Ölfässer.txt".encode("cp1252")], {3}).charset == "cp1252"


def test_a_unicode_field_shows_the_charset_of_the_others() -> None:
    raw = "č".encode("cp852")
    assert decide(["ž".encode("cp852")], {0}, [(raw, "č")]).charset == "cp852"


def test_a_setting_wins(extractor: Extractor) -> None:
    korean = zips.GOOD["cp949"][0]
    with Extractor(Options(readers=1, writers=1, name_charsets=("utf-8", "cp437"))) as told:
        directory = told.read_directory(in_memory(korean), Limits())
        assert directory.charset == Decision("cp437")
    with (
        Extractor(Options(readers=1, writers=1, name_charsets=("utf-8",))) as told,
        pytest.raises(Refused, match="UNZIP_NAME_CHARSETS"),
    ):
        told.read_directory(in_memory(korean), Limits())
    with pytest.raises(ValidationError, match="no charset"):
        settings_for("b", name_charsets="cp949,klingon")


# Languages, and the charsets in which old tools write names of theirs.
CHARSETS = {
    "ko": ["cp949"],
    "ja": ["cp932", "euc_jp"],
    "zh_Hans": ["gbk"],
    "zh_Hant": ["cp950"],
    "de": ["cp437", "cp850", "cp1252"],
    "fr": ["cp437", "cp850", "cp1252"],
    "pl": ["cp852", "cp1250"],
    "cs": ["cp852", "cp1250"],
    "ru": ["cp866", "cp1251", "koi8_r"],
    "el": ["cp737", "cp1253"],
    "tr": ["cp857", "cp1254"],
    "pt": ["cp850", "cp1252"],
    "es": ["cp437", "cp850", "cp1252"],
}
_WINDOWS_OR_UNIX = ("cp125", "koi8", "euc")


def _names(language: str) -> list[str]:
    """Names of territories, languages, currencies, scripts and cities: CLDR's, as Babel has them
    (Unicode License v3)."""
    locale = Locale.parse(language)
    tables = (locale.territories, locale.languages, locale.currencies, locale.scripts)
    found = [str(name) for table in tables for name in table.values()]
    found += [str(zone["city"]) for zone in locale.time_zones.values() if "city" in zone]
    return [f"{name.replace('/', '-')}.txt" for name in dict.fromkeys(found) if ":" not in name]


@pytest.mark.parametrize("language", CHARSETS)
@pytest.mark.parametrize("together", [1, 8])
def test_names_of_strangers_are_right_or_marked(language: str, together: int) -> None:
    """At most one name in a thousand is wrong and not marked as a guess, even alone in an archive;
    eight in an archive are hardly ever wrong at all."""
    for charset in (*CHARSETS[language], "utf-8"):
        raws = []
        for name in _names(language):
            with contextlib.suppress(UnicodeEncodeError):
                raws.append((name, name.encode(charset)))
        raws = [(name, raw) for name, raw in raws if not raw.isascii()]
        assert len(raws) >= 150
        system = 3 if charset.startswith(_WINDOWS_OR_UNIX) else 0
        raws = random.Random(1).sample(raws, min(len(raws), 400))
        wrong = unmarked = 0
        for at in range(0, len(raws), together):
            group = raws[at : at + together]
            decision = decide([raw for _, raw in group], {system})
            bad = sum(raw.decode(decision.charset) != name for name, raw in group)
            wrong += bad
            unmarked += bad if decision.sure else 0
        assert unmarked * 1000 <= len(raws), (charset, unmarked)
        assert together == 1 or wrong * 50 <= len(raws), (charset, wrong)
