"""The charset of names that do not say theirs: one decision per archive, by evidence.

Each charset that decodes every name is scored: how likely its text is in the languages written
in it (letters behind letters, frequency of Hangul and Han), which system wrote the archive, and
what members with a Unicode field show. The decision is sure where every other reading is far
less likely; otherwise it is a guess, and the manifest says so.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib.resources import files
from itertools import chain, pairwise, repeat
from typing import NamedTuple

_WEST = ("de", "fr", "es", "pt", "it", "nl", "sv", "da", "nb", "fi", "is", "ca", "et", "sq")
_CENTRAL = ("pl", "cs", "sk", "hu", "sl", "sh", "sq", "ro", "de")
_BALTIC = ("lt", "lv", "et", "de")
_CYRILLIC = ("ru", "uk", "bg")
_SOUTH = ("sr", "mk", "bg", "ru")
_DOS_SYSTEMS = (0, 6)  # MS-DOS and OS/2: names in the console's charset, or an East Asian one


class _Charset(NamedTuple):
    """A candidate: languages written in it, and how usual it is (natural logarithm)."""

    languages: tuple[str, ...]
    prior: float
    console: bool | None = None  # DOS's (True), Windows' or Unix's (False), or both (None)


_LATIN = dict.fromkeys((*_WEST, *_CENTRAL, *_BALTIC, "tr", "vi"))
_LETTERS = (*_LATIN, *dict.fromkeys((*_CYRILLIC, *_SOUTH)), "el", "he", "ar", "fa")
_ALL = (*_LETTERS, "ko", "ja", "zh", "zh-Hant", "th")
_CHARSETS = {
    "utf-8": _Charset(_ALL, 8.0),
    "cp949": _Charset(("ko",), 0.0),
    "cp932": _Charset(("ja",), -0.5),
    "gb18030": _Charset(("zh",), -0.5),
    "cp950": _Charset(("zh-Hant",), -0.5),
    "cp437": _Charset(("de", "fr", "es", "it", "nl", "sv", "fi"), 0.0, True),
    "cp850": _Charset(_WEST, -0.3, True),
    "cp852": _Charset(_CENTRAL, -1.0, True),
    "cp866": _Charset(_CYRILLIC, -0.5, True),
    "cp855": _Charset(_SOUTH, -1.5, True),
    "cp737": _Charset(("el",), -1.0, True),
    "cp857": _Charset(("tr",), -1.0, True),
    "cp1252": _Charset(_WEST, -0.5, False),
    "cp1250": _Charset(_CENTRAL, -1.0, False),
    "cp1251": _Charset((*_CYRILLIC, "sr", "mk"), -0.5, False),
    "cp1253": _Charset(("el",), -1.0, False),
    "cp1254": _Charset(("tr",), -0.5, False),
    "cp862": _Charset(("he",), -0.5, True),
    "cp1255": _Charset(("he",), -0.5, False),
    "cp720": _Charset(("ar", "fa"), -0.5, True),
    "cp864": _Charset(("ar",), -2.0, True),
    "cp1256": _Charset(("ar", "fa"), -0.5, False),
    "cp775": _Charset(_BALTIC, -1.0, True),
    "cp1257": _Charset(_BALTIC, -1.0, False),
    "cp860": _Charset(("pt",), -2.0, True),
    "cp861": _Charset(("is",), -2.0, True),
    "cp863": _Charset(("fr",), -3.0, True),
    "cp865": _Charset(("da", "nb"), -2.0, True),
    "cp1258": _Charset(("vi",), -1.0, False),
    "cp874": _Charset(("th",), -0.5),
    "euc_jp": _Charset(("ja",), -3.0, False),
    "koi8_r": _Charset(("ru",), -3.0, False),
    "iso8859_2": _Charset(_CENTRAL, -3.0, False),
    "mac_roman": _Charset(_WEST, -4.0, False),
    "mac_cyrillic": _Charset(("ru", "uk", "bg"), -4.0, False),
}
# In the middle of a word a capital shows a wrong charset more often than a strange name.
_CAPITAL_IN_WORD = re.compile(
    "[\u0430-\u044f\u03ac-\u03ce\xe0-\xffa-z][\u0410-\u042f\u0386-\u03ab\xc0-\xde]"
)
# Bytes above 0x7f in a charset that is none of these mostly come to some of these.
_NO_NAME = re.compile("[\x80-\xa0\u2310-\u2321\u2500-\u259f]")
_CLOSING = "\u2019\u201d\u203a"
_MARKS = "\xa7\xb6\u2020\u2021\u2030\u2039\u203a"  # sections, daggers, per mille, single guillemets
_BEHIND_LATIN, _BEHIND_ALPHABETS = "\u0370", "\u0e80"  # from Greek to Thai
_KANA = re.compile(r"[\x00-\x7f\u3041-\u30ff]*")
_FOLDED = {"\N{GREEK SMALL LETTER FINAL SIGMA}": "\N{GREEK SMALL LETTER SIGMA}", "ß": "s"}
_BELOW_DIGITS = re.compile(rb"[\x00-\x2f]+")
_SCORED_BYTES = 1 << 10  # more names than this show nothing new
_UNSEEN_PAIR, _UNSEEN_LETTER = 20, 26  # how unlikely, in halves of the natural logarithm
_UNSEEN_CHARACTER, _SYMBOL, _CONTROL = -13.0, -13.0, -40.0
_ASCII_LETTER = -3.2  # among Hangul and Han
_SCRIPT_CHANGE = -2.5  # between a letter of ASCII and a character
_CAPITAL_INSIDE = -8.0
_FOREIGN = math.log(0.05)  # a word of a language that is not usual in the charset
_MOST_OF_WORD = 12.0  # what one word may say for or against a reading
_SURE = 14.0  # how much less likely (natural logarithm) any other reading must be
_SURE_OF_ONE = 15.0  # the same where one character decides
_PLAUSIBLE = -8.5  # what a character that is not ASCII must come to on average
_ASCII_SHARE = 0.4  # how much of that a letter of ASCII may take


@dataclass(frozen=True, slots=True)
class Decision:
    """How an archive's names are read. ``others``: what the same names may also be.

    ``mixed``: no charset fits all names, and those that are UTF-8 are read as that.
    ``plausible``: the text looks like names.
    """

    charset: str
    sure: bool = True
    others: tuple[str, ...] = ()
    mixed: bool = False
    plausible: bool = field(default=True, compare=False)

    def read(self, raw: bytes) -> tuple[str, str]:
        """A name and the charset it is in; UnicodeDecodeError where it does not fit."""
        if self.mixed and _decodes([raw], "utf-8"):
            return raw.decode("utf-8"), "utf-8"
        return raw.decode(self.charset), self.charset


@cache
def _models() -> tuple[dict[str, bytes], dict[str, bytes], dict[str, dict[str, float]]]:
    """How unlikely pairs of letters are in each of ``_LETTERS`` (halves of a natural logarithm),
    and those of no language, by their second letter; how likely characters are, by language.
    """
    loaded = json.loads(files("unzip.zip").joinpath("name_models.json").read_text("utf-8"))
    pairs: dict[str, bytearray] = {}
    unseen: dict[str, bytearray] = {}
    seen = [
        {level: re.findall("..", text, re.DOTALL) for level, text in loaded["pairs"][each].items()}
        for each in _LETTERS
    ]
    for column, rows in enumerate(seen):
        for letter in set("".join(chain(*rows.values()))):
            usual = _UNSEEN_PAIR if letter.isascii() else _UNSEEN_LETTER
            unseen.setdefault(letter, bytearray([usual] * len(seen)))[column] = _UNSEEN_PAIR
    for column, rows in enumerate(seen):
        for level, found in rows.items():
            for pair in found:
                pairs.setdefault(pair, bytearray(unseen[pair[1]]))[column] = int(level)
    characters = {
        language: {char: -int(level) / 2 for level, text in rows.items() for char in text}
        for language, rows in loaded["characters"].items()
    }
    known = {pair: bytes(row) for pair, row in pairs.items()}
    return known, {letter: bytes(row) for letter, row in unseen.items()}, characters


def decide(
    names: Sequence[bytes],
    systems: Collection[int] = (),
    known: Iterable[tuple[bytes, str]] = (),
) -> Decision:
    """The charset of ``names``, none of which is ASCII alone.

    ``systems`` are those that made the members (APPNOTE 4.4.2); ``known`` are names of the same
    archive whose text a Unicode field gives.
    """
    found = _decide(names, systems, known)
    utf8 = [name for name in names if _decodes([name], "utf-8")]
    if not 0 < len(utf8) < len(names) or (
        found.plausible and not _is_rather_utf8(utf8, found.charset)
    ):
        return found
    # Two tools wrote to the archive, mostly one of Windows and one of Linux.
    rest = _decide([name for name in names if not _decodes([name], "utf-8")], systems, known)
    return replace(rest, sure=False, mixed=True) if rest.plausible else found


def _is_rather_utf8(names: Iterable[bytes], charset: str) -> bool:
    """Whether UTF-8 is far likelier for these names than the charset of those beside them."""
    words = _sample(names)
    as_utf8, otherwise = (
        sum(_scores([word.decode(each) for word in words], each)) for each in ("utf-8", charset)
    )
    return as_utf8 - otherwise > _SURE


def _decide(
    names: Sequence[bytes], systems: Collection[int], known: Iterable[tuple[bytes, str]]
) -> Decision:
    possible = [charset for charset in _CHARSETS if _decodes(names, charset)]
    shown = list(known)
    if shown:
        fitting = [charset for charset in possible if _reads(shown, charset)]
        possible = fitting or possible
    sample = _sample(names)
    readings: dict[tuple[str, ...], _Reading] = {}
    for charset in possible:
        words = tuple(unicodedata.normalize("NFC", name.decode(charset)) for name in sample)
        reading = _Reading(charset, words, _scores(words, charset), _prior(charset, systems))
        if words not in readings or reading.prior > readings[words].prior:
            readings[words] = reading
    if not readings:
        return Decision("cp437", sure=False, plausible=False)
    ranked = sorted(readings.values(), key=lambda each: each.total, reverse=True)
    best = ranked[0]
    for other in ranked[1:]:
        if _evidence(best, other) < 0:
            best = other
    charset = best.charset
    text = "\n".join(best.words)
    foreign = sum(not char.isascii() for char in text)
    letters = sum(char.isascii() and char.isalpha() for char in text)
    plausible = (
        not _CAPITAL_IN_WORD.search(text)
        and not _NO_NAME.search(text)
        and not any(map(_is_odd, best.words))
        and best.total > _PLAUSIBLE * (foreign + _ASCII_SHARE * letters)
    )
    margin = _SURE if foreign > 1 else _SURE_OF_ONE
    near = tuple(
        other.charset
        for other in ranked
        if other is not best and (_evidence(best, other) < margin or _is_kana(other.words))
    )
    fixed = bool(shown) and len(possible) < len(_CHARSETS) and _reads(shown, charset)
    if fixed and all(_same(sample, charset, other) for other in possible):
        return Decision(charset)
    return Decision(charset, plausible and not near, near[:3], plausible=plausible)


def _is_odd(word: str) -> bool:
    """Whether hardly anybody writes such a word, whatever its letters are.

    It begins with a mark that belongs to a letter, or a letter stands beside a symbol, or one of
    ASCII beside one of another alphabet.
    """
    if word[0] in _CLOSING or unicodedata.category(word[0]).startswith("M"):
        return True
    return any(_do_not_meet(one, other) for one, other in pairwise(word))


def _do_not_meet(one: str, other: str) -> bool:
    if _is_symbol(one) or _is_symbol(other):
        return any(char < _BEHIND_ALPHABETS and char.isalpha() for char in (one, other))
    if not (one.isalpha() and other.isalpha()) or one.isascii() == other.isascii():
        return False
    return _BEHIND_LATIN <= max(one, other) < _BEHIND_ALPHABETS


def _is_symbol(char: str) -> bool:
    if char.isascii() or char == "\N{DEGREE SIGN}":  # "n°5" is usual
        return False
    return char in _MARKS or unicodedata.category(char).startswith("S")


def _is_kana(words: Iterable[str]) -> bool:
    """Whether nothing but kana is beside ASCII in them.

    Kana of EUC-JP are the most frequent characters of Big5, and foreign words written in kana
    (countries, currencies) look like none of the language's own.
    """
    return _KANA.fullmatch("".join(words)) is not None


def _decodes(names: Iterable[bytes], charset: str) -> bool:
    try:
        for name in names:
            name.decode(charset)
    except UnicodeDecodeError:
        return False
    return True


def _reads(shown: Iterable[tuple[bytes, str]], charset: str) -> bool:
    try:
        return all(raw.decode(charset) == name for raw, name in shown)
    except UnicodeDecodeError:
        return False


def _same(names: Iterable[bytes], charset: str, other: str) -> bool:
    return all(name.decode(charset) == name.decode(other) for name in names)


def _sample(names: Iterable[bytes]) -> list[bytes]:
    """The words that are not ASCII, each once. No charset here has bytes below "0" in a character
    of several bytes, so a name may be split there before it is decoded.
    """
    found: list[bytes] = []
    size = 0
    words = (word for name in names for word in _BELOW_DIGITS.split(name) if not word.isascii())
    for word in dict.fromkeys(words):
        found.append(word)
        size += len(word)
        if size > _SCORED_BYTES:
            break
    return found


def _prior(charset: str, systems: Collection[int]) -> float:
    candidate = _CHARSETS[charset]
    if candidate.console is None or not systems:
        return candidate.prior
    dos = all(system in _DOS_SYSTEMS for system in systems)
    return candidate.prior - (2.0 if candidate.console is not dos else 0.0)


class _Reading(NamedTuple):
    """The words in one charset, each with the logarithm of its likelihood there."""

    charset: str
    words: tuple[str, ...]
    scores: list[float]
    prior: float

    @property
    def total(self) -> float:
        return self.prior + sum(self.scores)


def _evidence(one: _Reading, other: _Reading) -> float:
    """How much likelier (natural logarithm) ``one`` is, by the words that differ alone.

    A name that both read alike says nothing, however well it fits a language of one of them: the
    names of an archive are of several languages.
    """
    differing = (
        score - against
        for word, unlike, score, against in zip(
            one.words, other.words, one.scores, other.scores, strict=True
        )
        if word != unlike
    )
    words = sum(max(-_MOST_OF_WORD, min(_MOST_OF_WORD, each)) for each in differing)
    return one.prior - other.prior + words


def _scores(words: Sequence[str], charset: str) -> list[float]:
    """Each word's likelihood (natural logarithm) in its likeliest language."""
    usual = _CHARSETS[charset].languages
    scores = []
    for word in words:
        by_language = _in_alphabets(word) if usual[0] in _LETTERS else {}
        found = [
            by_language[language] if language in by_language else _in_characters(word, language)
            for language in usual
        ]
        if by_language and charset != "utf-8":
            found.append(_FOREIGN + max(by_language.values()))
        scores.append(max(found))
    return scores


@lru_cache(maxsize=2_000)
def _in_alphabets(word: str) -> dict[str, float]:
    """A word's likelihood in each language of letters.

    Its letters are looked at one time: 35 charsets ask for up to 30 languages each.
    """
    pairs = []
    score = 0.0
    before, small = " ", False
    for char in word:
        if not char.isalpha():
            pairs.append(before + " ")
            score += 0.0 if char.isascii() else _symbol(char)
            before, small = " ", False
            continue
        lower = _FOLDED.get(char) or char.lower()[0]
        pairs.append(before + lower)
        if small and char.isupper():
            score += _CAPITAL_INSIDE
        before, small = lower, char.islower()
    pairs.append(before + " ")
    known, unseen, _ = _models()
    strange = [bytes([each]) * len(_LETTERS) for each in (_UNSEEN_LETTER, _UNSEEN_PAIR)]
    found = (
        known.get(p) or unseen.get(p[1]) or strange[p[1].isascii()] for p in pairs if p != "  "
    )
    rows = list(found)
    unlikely = map(sum, zip(*rows, strict=True)) if rows else repeat(0)
    return {each: score - halves / 2 for each, halves in zip(_LETTERS, unlikely, strict=False)}


@lru_cache(maxsize=10_000)
def _in_characters(text: str, language: str) -> float:
    model = _models()[2][language]
    score = 0.0
    letter = character = False
    for char in text:
        is_letter = char.isascii() and char.isalpha()
        is_character = not char.isascii()
        if is_letter:
            score += _ASCII_LETTER
        elif is_character:
            score += model.get(char, _UNSEEN_CHARACTER if char.isalpha() else _symbol(char))
        if (is_letter and character) or (is_character and letter):
            score += _SCRIPT_CHANGE
        letter, character = is_letter, is_character
    return score


def _symbol(char: str) -> float:
    return _CONTROL if unicodedata.category(char) in ("Cc", "Co", "Cn") else _SYMBOL
