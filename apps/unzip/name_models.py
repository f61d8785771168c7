"""Write `src/unzip/zip/name_models.json`: how likely letters are in each language.

    uv run --no-project --with wordfreq,opencc-python-reimplemented,pythainlp,simplemma \
        python apps/unzip/name_models.py

The counts come from the word lists of the package wordfreq (Apache-2.0, data CC BY-SA 4.0), the
traditional Chinese ones through OpenCC (Apache-2.0), the Thai ones from the words of PyThaiNLP
(Apache-2.0, data CC0), the Estonian and Albanian ones from those of simplemma (MIT). What is
kept is no text: for alphabets the likelihood of a letter behind another, for the rest that of a
character alone, both as halves of negative natural logarithms.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import unicodedata
from collections import defaultdict
from pathlib import Path

import msgpack
import wordfreq
from opencc import OpenCC
from pythainlp.corpus import thai_words as thai
from simplemma.strategies import DefaultDictionaryFactory

ALPHABETS = tuple(
    "de fr es pt it nl sv da nb fi is ca pl cs sk hu sl sh sq ro tr lt lv et "  # noqa: SIM905
    "ru uk bg sr mk el he ar fa vi".split()
)
LEMMAS = ("et", "sq")
CHARACTERS = ("ko", "ja", "zh", "zh-Hant", "th")
# wordfreq has Serbian in Latin letters alone.
_SERBIAN = str.maketrans(
    "abvgdđežzijklmnoprstćufhcčšǉǌǆ",
    "абвгдђежзијклмнопрстћуфхцчшљњџ",
)
_DIGRAPHS = (("lj", "ǉ"), ("nj", "ǌ"), ("dž", "ǆ"))
_LARGE = ("de", "fr", "es", "pt", "it", "nl", "sv", "nb", "fi", "pl", "cs", "ru", "uk", "zh", "ja")


def words(language: str) -> list[tuple[str, float]]:
    """Each word with its frequency."""
    size = "large" if language in _LARGE else "small"
    path = Path(wordfreq.__file__).parent / "data" / f"{size}_{language}.msgpack.gz"
    buckets = msgpack.loads(gzip.decompress(path.read_bytes()), raw=False)[1:]
    # The square root: names are made of rare words as well as of common ones.
    return [
        (unicodedata.normalize("NFC", word), math.sqrt(10 ** (-rank / 100)))
        for rank, bucket in enumerate(buckets)
        for word in bucket
    ]


def serbian(word: str) -> str:
    """The word in Cyrillic letters."""
    for latin, one in _DIGRAPHS:
        word = word.replace(latin, one)
    return word.translate(_SERBIAN)


def thai_words() -> list[tuple[str, float]]:
    """The same for Thai, whose words wordfreq does not have; the list has no frequencies."""
    return [(word, 1.0) for word in thai()]


def lemmas(language: str) -> list[tuple[str, float]]:
    """The same for a language that wordfreq lacks: the words that other words are forms of."""
    words = set(DefaultDictionaryFactory().get_dictionary(language).values())
    return [(unicodedata.normalize("NFC", word).lower(), 1.0) for word in sorted(words)]


def levels(weights: dict[str, float], total: float) -> dict[str, list[str]]:
    """Level (twice the negative logarithm) to what has it."""
    found: dict[str, list[str]] = defaultdict(list)
    for text, weight in weights.items():
        found[str(round(-2 * math.log(weight / total)))].append(text)
    return {level: sorted(found[level]) for level in sorted(found, key=int)}


def alphabet(language: str) -> dict[str, str]:
    pairs: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    if language in LEMMAS:
        listed = lemmas(language)
    else:
        listed = words("sh" if language == "sr" else language)
    for latin, weight in listed:
        word = serbian(latin) if language == "sr" else latin
        text = f" {word} "
        if all(char.isalpha() for char in word):
            for one, other in itertools.pairwise(text):
                pairs[one][other] += weight
    rows: dict[str, list[str]] = defaultdict(list)
    for one, row in pairs.items():
        total = sum(row.values())
        for other, weight in row.items():
            level = round(-2 * math.log(weight / total))
            if level <= 16:
                rows[str(level)].append(one + other)
    return {level: "".join(sorted(rows[level])) for level in sorted(rows, key=int)}


def characters(language: str) -> dict[str, str]:
    convert = OpenCC("s2tw").convert if language == "zh-Hant" else str
    weights: dict[str, float] = defaultdict(float)
    listed = thai_words() if language == "th" else words(language.partition("-")[0])
    for word, weight in listed:
        for char in convert(word):
            if not char.isascii():
                weights[char] += weight
    total = sum(weights.values())
    return {level: "".join(chars) for level, chars in levels(weights, total).items()}


if __name__ == "__main__":
    models = {
        "pairs": {language: alphabet(language) for language in ALPHABETS},
        "characters": {language: characters(language) for language in CHARACTERS},
    }
    target = Path(__file__).parent / "src" / "unzip" / "zip" / "name_models.json"
    text = json.dumps(models, ensure_ascii=False, indent=0, separators=(",", ":"))
    target.write_text(text + "\n", encoding="utf-8")
