"""Names in many languages that nobody here wrote, in the charsets in which old tools write them."""

from __future__ import annotations

import contextlib
import gettext
import json
import random
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pycountry
from babel import Locale

from unzip.zip.charsets import decide


class Language(NamedTuple):
    """A language's charsets: first DOS's, then Windows' and Unix's. ``regions`` are Faker's."""

    charsets: tuple[str, ...]
    regions: tuple[str, ...]
    iso: str = ""


_WEST = ("cp437", "cp850", "cp1252")
_NORTH = ("cp850", "cp865", "cp1252")
_CENTRAL = ("cp852", "cp1250")
_BALTIC = ("cp775", "cp1257")
_CYRILLIC = ("cp866", "cp1251")
LANGUAGES = {
    "ko": Language(("cp949",), ("ko_KR",)),
    "ja": Language(("cp932", "euc_jp"), ("ja_JP",)),
    "zh_Hans": Language(("gbk",), ("zh_CN",), "zh_CN"),
    "zh_Hant": Language(("cp950",), ("zh_TW",), "zh_TW"),
    "th": Language(("cp874",), ("th_TH", "th")),
    "vi": Language(("cp1258",), ("vi_VN",)),
    "ru": Language((*_CYRILLIC, "koi8_r", "mac_cyrillic"), ("ru_RU",)),
    "uk": Language(_CYRILLIC, ("uk_UA",)),
    "bg": Language(_CYRILLIC, ("bg_BG",)),
    "be": Language(_CYRILLIC, ()),
    "kk": Language(("cp1251",), ()),
    "sr": Language(("cp855", "cp1251"), ()),
    "mk": Language(("cp855", "cp1251"), ("mk_MK",)),
    "el": Language(("cp737", "cp1253"), ("el_GR",)),
    "he": Language(("cp862", "cp1255"), ("he_IL",)),
    "ar": Language(("cp720", "cp1256"), ("ar_AA", "ar_DZ", "ar_PS", "ar_SA")),
    "fa": Language(("cp1256",), ("fa_IR",)),
    "tr": Language(("cp857", "cp1254"), ("tr_TR",)),
    "az": Language(("cp857", "cp1254"), ("az_AZ",)),
    "de": Language(_WEST, ("de_AT", "de_DE", "de_CH")),
    "fr": Language((*_WEST, "cp863"), ("fr_FR", "fr_CH", "fr_BE")),
    "es": Language(_WEST, ("es_ES", "es_CO", "es", "es_CL")),
    "it": Language(_WEST, ("it_IT",)),
    "pt": Language(("cp850", "cp860", "cp1252"), ("pt_BR", "pt_PT")),
    "nl": Language(_WEST, ("nl_NL", "nl_BE")),
    "ca": Language(("cp850", "cp1252"), ("es_CA",)),
    "ga": Language(("cp850", "cp1252"), ("ga_IE",)),
    "da": Language(_NORTH, ("da_DK",)),
    "nb": Language(_NORTH, ("no_NO",), "nb_NO"),
    "sv": Language((*_WEST, "mac_roman"), ("sv_SE",)),
    "fi": Language(_WEST, ("fi_FI",)),
    "is": Language(("cp850", "cp861", "cp1252"), ("is_IS",)),
    "pl": Language((*_CENTRAL, "iso8859_2"), ("pl_PL",)),
    "cs": Language(_CENTRAL, ("cs_CZ",)),
    "sk": Language(_CENTRAL, ("sk_SK",)),
    "hu": Language(_CENTRAL, ("hu_HU",)),
    "ro": Language(_CENTRAL, ("ro_RO",)),
    "sl": Language(_CENTRAL, ("sl_SI",)),
    "hr": Language(_CENTRAL, ("hr_HR", "bs_BA")),
    "sq": Language(("cp852", "cp1250"), ()),
    "lt": Language(_BALTIC, ("lt_LT",)),
    "lv": Language(_BALTIC, ("lv_LV",)),
    "et": Language(_BALTIC, ("et_EE",)),
}
_WINDOWS_OR_UNIX = ("cp125", "koi8", "euc", "iso", "mac")
_LONGEST = 60
# Windows' charsets have these letters of Romanian with a cedilla alone.
_CEDILLAS = str.maketrans("șțȘȚ", "şţŞŢ")
TEXTS = ("Django==5.2.19", "Faker==40.63.0")


def cldr(language: str) -> list[str]:
    """Names of territories, languages, currencies, scripts and cities: CLDR's, as Babel has them
    (Unicode License v3)."""
    locale = Locale.parse(language)
    tables = (locale.territories, locale.languages, locale.currencies, locale.scripts)
    found = [str(name) for table in tables for name in table.values()]
    found += [str(zone["city"]) for zone in locale.time_zones.values() if "city" in zone]
    return _as_names(found)


def iso_codes(language: str) -> list[str]:
    """Names of countries, their parts, languages, currencies and scripts: Debian's iso-codes, as
    pycountry has them (LGPL 2.1)."""
    folder = Path(pycountry.LOCALES_DIR, LANGUAGES[language].iso or language)
    return _as_names(_translated(folder.rglob("*.mo")))


def interfaces(texts: Path, language: str) -> list[str]:
    """What Django's interface says (BSD), from where ``TEXTS`` are installed."""
    folder = texts / "django"
    return _as_names(_translated(folder.rglob(f"locale/{language}/LC_MESSAGES/*.mo")))


_PROVIDERS = """
import importlib, json, pkgutil
import faker.providers
found = {}
def collect(value, into):
    if isinstance(value, str):
        into[value] = None
    elif isinstance(value, dict):
        collect([*value, *value.values()], into)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            collect(each, into)
for kind in ("person", "address", "company", "job", "lorem", "color", "date_time", "currency"):
    package = importlib.import_module("faker.providers." + kind)
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            provider = importlib.import_module(package.__name__ + "." + module.name).Provider
            for name, value in vars(provider).items():
                if not name.startswith("__"):
                    collect(value, found.setdefault(module.name, {}))
print(json.dumps({region: list(texts) for region, texts in found.items()}))
"""


def people(texts: Path) -> dict[str, list[str]]:
    """Names of persons, streets, cities, companies and jobs, and words: Faker's (MIT), by
    language."""
    listed = subprocess.run(
        [sys.executable, "-c", _PROVIDERS],
        env={"PYTHONPATH": str(texts)},
        capture_output=True,
        check=True,
    )
    regions: dict[str, list[str]] = json.loads(listed.stdout)
    return {
        language: _as_names(text for region in row.regions for text in regions[region])
        for language, row in LANGUAGES.items()
    }


def _translated(catalogs: Iterable[Path]) -> list[str]:
    found: list[str] = []
    for path in sorted(catalogs):
        with path.open("rb") as file:
            texts: dict[object, object] = vars(gettext.GNUTranslations(file))["_catalog"]
        found += [text for key, text in texts.items() if key and isinstance(text, str) and text]
    return found


def _as_names(texts: Iterable[str]) -> list[str]:
    names = dict.fromkeys(
        unicodedata.normalize("NFC", text).replace("/", "-").translate(_CEDILLAS) for text in texts
    )
    return [
        f"{name}.txt"
        for name in names
        if len(name) <= _LONGEST and not any(char in ":%{\n" for char in name)
    ]


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


class Measured(NamedTuple):
    """Of ``count`` names: how many were wrong, wrong without a mark, and marked as a guess."""

    count: int = 0
    wrong: int = 0
    unmarked: int = 0
    guessed: int = 0

    def plus(self, other: Measured) -> Measured:
        """Both together."""
        return Measured(*(one + another for one, another in zip(self, other, strict=True)))


def measured(names: Sequence[str], charset: str, *, together: int, most: int) -> Measured:
    """How ``most`` of the names are read, in archives of ``together``."""
    raws = []
    for name in names:
        with contextlib.suppress(UnicodeEncodeError):
            raws.append((name, _written(name, charset)))
    raws = [(name, raw) for name, raw in raws if not raw.isascii()]
    raws = random.Random(1).sample(raws, min(len(raws), most))
    system = 3 if charset.startswith(_WINDOWS_OR_UNIX) else 0
    wrong = unmarked = guessed = 0
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
        guessed += 0 if decision.sure else len(group)
    return Measured(len(raws), wrong, unmarked, guessed)
