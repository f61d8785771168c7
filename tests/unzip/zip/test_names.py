"""Names: the order of decoding, and the choice that is recorded."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests import conformance
from tests.unzip import held_out, zips
from tests.unzip.held_out import LANGUAGES, Measured, measured
from tests.unzip.support import in_memory, settings_for
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.refusals import Refused
from unzip.zip.charsets import Decision, decide
from unzip.zip.limits import Limits


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


def test_an_archive_that_two_tools_wrote_to(extractor: Extractor) -> None:
    """Found: the name that `zip` of Linux added to a Korean archive of Windows became `寃곌낵.csv`,
    for sure, and with one more that CP949 does not have, all became Greek."""
    windows = ["보고서.hwp", "회의록 2024.docx"]
    entries = [zips.Entry(name.encode("cp949"), b"1", made_by=zips.DOS) for name in windows]
    data = zips.build(*entries, zips.Entry("결과.csv".encode(), b"1"))
    directory = extractor.read_directory(in_memory(data), Limits())
    assert [(member.path, member.name_source) for member in directory.members] == [
        *((name, "cp949") for name in windows),
        ("결과.csv", "utf-8"),
    ]
    assert directory.charset is not None
    assert not directory.charset.sure
    assert decide([*(name.encode("cp949") for name in windows), "뷁.csv".encode()]).mixed
    # "처" in CP949 is "ó" in UTF-8: names that one charset gives a sense are never torn apart.
    assert not decide(["처.txt".encode("cp949"), "보고서.txt".encode("cp949")]).mixed


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


# A fourth of the names in `make test`, all of them in `make conformance`.
SOME_OR_ALL = pytest.mark.parametrize(
    "most", [pytest.param(10, id="some"), pytest.param(40, id="all", marks=pytest.mark.conformance)]
)


@SOME_OR_ALL
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("together", [1, 8])
def test_names_of_strangers_are_right_or_marked(language: str, together: int, most: int) -> None:
    """At most one name in a thousand is wrong and not marked as a guess, even alone in an archive;
    eight in an archive are hardly ever wrong at all."""
    names = held_out.cldr(language)
    for charset in (*LANGUAGES[language].charsets, "utf-8"):
        found = measured(names, charset, together=together, most=most)
        assert found.count >= most, charset
        assert found.unmarked == 0, charset
        # one archive of eight may be wrong where it says that it guessed
        assert together == 1 or found.wrong <= max(together, found.count // 25), charset


@SOME_OR_ALL
@pytest.mark.parametrize("language", [name for name in LANGUAGES if name not in ("fa", "ca")])
def test_names_that_no_setting_was_chosen_by(language: str, most: int) -> None:
    """Found: of five names together 1.6 % of the Turkish, 5 % of the Danish and nearly all Hebrew
    ones were wrong and not marked: words that both charsets read alike counted as evidence."""
    names = held_out.iso_codes(language)
    for charset in (*LANGUAGES[language].charsets, "utf-8"):
        found = measured(names, charset, together=5, most=most)
        assert found.count >= most, charset
        assert found.unmarked == 0, charset


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("cp720", "المملكة المتحدة"),
        ("cp855", "Република Србија"),
        ("cp775", "Žemėlapių sąrašas ir ataskaita"),
        ("cp1257", "Žemėlapių sąrašas ir ataskaita"),
        ("cp860", "Informações e Relatórios de Verificação"),
    ],
)
def test_charsets_that_were_no_candidates(charset: str, name: str) -> None:
    """Found: Arabic of CP720 was Cyrillic, Serbian Thai, Lithuanian Polish, and all for sure."""
    system = 3 if charset == "cp1257" else 0
    assert decide([name.encode(charset)], {system}).charset == charset


@pytest.mark.parametrize("charset", ["mac_latin2", "hp_roman8", "iso8859_5"])
def test_a_charset_that_is_no_candidate_is_a_guess(charset: str) -> None:
    """Found: French in HP's charset was Thai for sure, in the Mac's Central European one German."""
    wrong = unmarked = 0
    for language in ("de", "fr", "sv", "pl", "ru", "kk"):
        found = measured(held_out.cldr(language), charset, together=5, most=60)
        wrong, unmarked = wrong + found.wrong, unmarked + found.unmarked
    assert wrong
    assert unmarked == 0


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Django and Faker are installed, for their texts."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is needed")
    folder = tmp_path_factory.mktemp("texts")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run(
        [*command, *held_out.TEXTS], capture_output=True, text=True, env=os.environ, check=False
    )
    if done.returncode:
        pytest.skip(f"Python's index does not answer: {done.stderr.strip()[-200:]}")
    return folder


_MOST = {1: 30, 5: 100}  # names of each source, by how many are in an archive
_GROUPS = {
    "of East Asia": ("ko", "ja", "zh_Hans", "zh_Hant", "th", "vi"),
    "in Cyrillic": ("ru", "uk", "bg", "be", "kk", "sr", "mk"),
    "of the eastern Mediterranean": ("el", "he", "ar", "fa", "tr", "az"),
    "of Western Europe": ("de", "fr", "es", "it", "pt", "nl", "ca", "ga"),
    "of Northern Europe": ("da", "nb", "sv", "fi", "is", "lt", "lv", "et"),
    "of Central Europe": ("pl", "cs", "sk", "hu", "ro", "sl", "hr", "sq"),
}


def test_each_language_is_in_a_group() -> None:
    assert sorted(name for group in _GROUPS.values() for name in group) == sorted(LANGUAGES)


@pytest.mark.conformance
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("group", _GROUPS)
def test_all_held_out_names(texts: Path, group: str) -> None:
    """Writes how the charset of held-out names is found."""
    rows = []
    bad = []
    people = held_out.people(texts)
    for language in _GROUPS[group]:
        sources = (
            held_out.cldr(language),
            held_out.iso_codes(language),
            held_out.interfaces(texts, language),
            people[language],
        )
        for charset in (*LANGUAGES[language].charsets, "utf-8"):
            cells = []
            for together, most in _MOST.items():
                found = Measured()
                for names in sources:
                    found = found.plus(measured(names, charset, together=together, most=most))
                marked = found.wrong - found.unmarked
                cells.append(
                    f"{found.count} | {100 * found.guessed / found.count:.0f} % | {marked} | "
                    f"{found.unmarked}"
                )
                if found.unmarked > found.count / 1000:
                    bad.append((language, charset, together, found))
            rows.append(f"| {language} | {charset} | {' | '.join(cells)} |")
    columns = "names | marked as a guess | wrong, marked | wrong, not marked"
    conformance.write_section(
        f"Names of zip members without a charset: languages {group}",
        "Names of countries, languages, currencies and scripts in the translations of Debian's "
        "iso-codes and CLDR, texts of Django's interface, and names of persons, streets, companies "
        "and jobs that Faker has, in the charsets that old tools write: each in an archive of its "
        "own, and five in an archive.\n\n"
        f"| language | charset | alone: {columns} | five: {columns} |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n" + "\n".join(rows),
    )
    assert not bad
