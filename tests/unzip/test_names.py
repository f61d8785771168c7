"""Names: the order of decoding, and the choice that is recorded."""

from __future__ import annotations

import contextlib
import gettext
import random
import unicodedata
from pathlib import Path

import pycountry
import pytest
from babel import Locale
from pydantic import ValidationError

from tests import conformance
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
    "it": ["cp437", "cp850", "cp1252"],
    "da": ["cp850", "cp1252"],
    "sv": ["cp437", "cp850", "cp1252"],
    "nb": ["cp850", "cp1252"],
    "fi": ["cp437", "cp850", "cp1252"],
    "hu": ["cp852", "cp1250"],
    "uk": ["cp866", "cp1251"],
    "he": ["cp862", "cp1255"],
    "vi": ["cp1258"],
    "th": ["cp874"],
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


def _held_out(language: str) -> list[str]:
    """Names of countries, their parts, languages, currencies and scripts: Debian's iso-codes, as
    pycountry has them (LGPL 2.1)."""
    found: list[str] = []
    code = {"zh_Hans": "zh_CN", "zh_Hant": "zh_TW", "nb": "nb_NO"}.get(language, language)
    for path in sorted(Path(pycountry.LOCALES_DIR, code, "LC_MESSAGES").glob("*.mo")):
        with path.open("rb") as file:
            texts: dict[object, object] = vars(gettext.GNUTranslations(file))["_catalog"]
        found += [text for key, text in texts.items() if key and isinstance(text, str) and text]
    names = [unicodedata.normalize("NFC", name).replace("/", "-") for name in dict.fromkeys(found)]
    return [f"{name}.txt" for name in names]


def _written(name: str, charset: str) -> bytes:
    """The name's bytes; Vietnamese ones have their tone behind the letter in CP1258."""
    if charset != "cp1258":
        return name.encode(charset)
    tones = "\u0300\u0301\u0303\u0309\u0323"
    parts = []
    for char in name:
        marks = unicodedata.normalize("NFD", char)
        letter = "".join(mark for mark in marks if mark not in tones)
        tone = "".join(mark for mark in marks if mark in tones)
        parts.append(unicodedata.normalize("NFC", letter) + tone)
    return "".join(parts).encode(charset)


def _measured(names: list[str], charset: str, *, together: int, most: int) -> tuple[int, int, int]:
    """How many names were judged, how many read wrongly, and how many of those not marked."""
    raws = []
    for name in names:
        with contextlib.suppress(UnicodeEncodeError):
            raws.append((name, _written(name, charset)))
    raws = [(name, raw) for name, raw in raws if not raw.isascii()]
    raws = random.Random(1).sample(raws, min(len(raws), most))
    system = 3 if charset.startswith(_WINDOWS_OR_UNIX) else 0
    wrong = unmarked = 0
    for at in range(0, len(raws), together):
        group = raws[at : at + together]
        decision = decide([raw for _, raw in group], {system})
        bad = sum(
            unicodedata.normalize("NFC", raw.decode(decision.charset, "replace"))
            != unicodedata.normalize("NFC", name)
            for name, raw in group
        )
        wrong += bad
        unmarked += bad if decision.sure else 0
    return len(raws), wrong, unmarked


@pytest.mark.parametrize("language", CHARSETS)
@pytest.mark.parametrize("together", [1, 8])
def test_names_of_strangers_are_right_or_marked(language: str, together: int) -> None:
    """At most one name in a thousand is wrong and not marked as a guess, even alone in an archive;
    eight in an archive are hardly ever wrong at all."""
    for charset in (*CHARSETS[language], "utf-8"):
        count, wrong, unmarked = _measured(_names(language), charset, together=together, most=80)
        assert count >= 40, (charset, count)
        assert unmarked == 0, charset
        # one archive of eight may be wrong where it says that it guessed
        assert together == 1 or wrong <= max(together, count // 25), (charset, wrong)


@pytest.mark.parametrize("language", CHARSETS)
def test_names_that_no_setting_was_chosen_by(language: str) -> None:
    """Found: of five names together 1.6 % of the Turkish, 5 % of the Danish and nearly all Hebrew
    ones were wrong and not marked: words that both charsets read alike counted as evidence."""
    for charset in (*CHARSETS[language], "utf-8"):
        count, _, unmarked = _measured(_held_out(language), charset, together=5, most=60)
        assert count >= 50, (charset, count)
        assert unmarked == 0, charset


@pytest.mark.conformance
@pytest.mark.timeout(900)
def test_all_held_out_names() -> None:
    """Writes how the charset of held-out names is found, five in an archive."""
    rows = []
    worst = 0.0
    for language, charsets in CHARSETS.items():
        for charset in (*charsets, "utf-8"):
            count, wrong, unmarked = _measured(
                _held_out(language) + _names(language), charset, together=5, most=500
            )
            rows.append(f"| {language} | {charset} | {count} | {wrong - unmarked} | {unmarked} |")
            worst = max(worst, unmarked / count)
    conformance.write_section(
        "Names of zip members without a charset",
        "Names of countries, languages, currencies and scripts in the translations of Debian's "
        "iso-codes and CLDR, in the charsets that old tools write, five in an archive.\n\n"
        "| language | charset | names | wrong, marked as a guess | wrong, not marked |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows),
    )
    assert worst <= 0.001
