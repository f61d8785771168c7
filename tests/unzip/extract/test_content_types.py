"""Types from our own table, charsets from the bytes."""

from __future__ import annotations

import codecs
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unzip.extract.content_types import Probe, TextProbe, media_type


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.log", "text/plain"),
        ("a.jsonl", "application/jsonl"),
        ("a.YAML", "application/yaml"),
        ("x/y.parquet", "application/vnd.apache.parquet"),
        ("a.webp", "image/webp"),
        ("a.tar.gz", "application/gzip"),
        ("README", "text/plain"),
        (".gitignore", "application/octet-stream"),
        ("unknown.xyz", "application/octet-stream"),
        ("folder.txt/none", "application/octet-stream"),
    ],
)
def test_media_type(path: str, expected: str) -> None:
    assert media_type(path) == expected


def _charset(*chunks: bytes) -> str:
    probe = TextProbe()
    for chunk in chunks:
        probe.feed(chunk)
    return probe.charset()


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        (b"", "utf-8"),
        (b"plain", "utf-8"),
        ("안녕".encode(), "utf-8"),
        ("안녕하세요, 오늘은 좋은 날씨입니다.".encode("cp949"), "euc-kr"),
        ("안녕".encode()[:-1], "utf-8"),
        ("Grüße aus München, schöne Straßen\n".encode("utf-16"), "utf-16"),
        (b"\x00\x01\x02\xff\xfe\xfd", ""),
        # Found: called cp1257 and shift-jis. None is better than a wrong one.
        ("Grüße aus Köln".encode("latin-1"), ""),
        ("naïve café".encode("latin-1"), ""),
        ("Привет, мир".encode("cp1251"), ""),
        ("안녕".encode("cp949"), ""),
        # Found: called euc-kr, of which common Chinese is Hangul.
        ("感谢大家的关注和参与并且按规定办理".encode("gb2312"), ""),
        ("これは日本語の文章であって韓国語ではありません".encode("euc-jp"), ""),
        # Found: called utf-16 for its first two bytes.
        ("Grüße aus München".encode("utf-32"), "utf-32"),
        (codecs.BOM_UTF32_BE + "Grüße".encode("utf-32-be"), "utf-32"),
        (codecs.BOM_UTF16_BE + "감사합니다".encode("utf-16-be"), "utf-16"),
        (b"\xff\xfe", "utf-16"),
        (b"\xff\xfea", ""),
        (b"\xff\xfe\x00\xd8a\x00", ""),
        (b"\xff\xfe\x01\x00\x02\x00", ""),
        (b"\xff\xfe\x00\x00\xff\xff\xff\xff", ""),
        (b"\xfe\xff\xe0\x00", ""),
        # Found: called utf-8, for all of their bytes are ASCII.
        ("これは日本語です".encode("iso-2022-jp"), ""),
        ("한국어입니다".encode("iso-2022-kr"), ""),
        ("这是中文".encode("hz"), ""),
        ("plain".encode("utf-16-le"), ""),
        (b"\x1b[31mred\x1b[0m ~{ ~/ ~", "utf-8"),
        ("안녕 \x1b(B".encode(), "utf-8"),
    ],
)
def test_charset(data: bytes, charset: str) -> None:
    if data == "안녕".encode()[:-1]:
        assert _charset(data) != "utf-8"  # cut within a character: not UTF-8
    else:
        assert _charset(data) == charset


def test_charset_is_found_behind_a_long_ascii_part() -> None:
    korean = "한국어 문장이 여기에 있습니다.\n".encode("cp949") * 20
    assert _charset(b"ascii only\n" * 5000, korean) == "euc-kr"


def test_one_bad_byte_at_the_very_end_is_not_utf_8() -> None:
    assert _charset(b"a" * 100_000, b"\xff") != "utf-8"


@given(st.text(), st.integers(1, 7))
def test_utf_8_in_any_pieces(text: str, size: int) -> None:
    data = text.encode()
    found = _charset(*(data[n : n + size] for n in range(0, len(data), size)))
    assert found == "utf-8" or (text.isascii() and found == _charset(data))


@given(
    st.sampled_from(["iso-2022-jp", "iso-2022-kr", "hz"]),
    st.text(" abc", max_size=9),
    st.integers(1, 9),
)
def test_seven_bits_are_no_utf_8_in_any_pieces(charset: str, before: str, size: int) -> None:
    data = f"{before}中文 ".encode(charset)
    assert _charset(*(data[n : n + size] for n in range(0, len(data), size))) == ""


def test_no_chinese_of_any_words_is_called_korean() -> None:
    """Found: 6.5 % of random strings of 12 characters of GB2312."""
    chance = random.Random(1)
    common = [bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)]
    wrong = 0
    for _ in range(300):
        data = b"".join(chance.choices(common[:-5], k=12))
        wrong += _charset(data) != ""
    assert wrong == 0


def test_a_long_text_in_utf_16_may_be_cut_within_a_character() -> None:
    text = ("a" + "\N{GRINNING FACE}" * 40_000).encode("utf-16")
    assert _charset(text) == "utf-16"
    assert _charset(text[:10_001], text[10_001:]) == "utf-16"
    assert _charset(text[:-2]) == "utf-16"  # more than the sample


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("a.txt", b"x", "text/plain; charset=utf-8"),
        ("a.png", b"x", "image/png"),
        ("a.json", b"x", "application/json"),
        ("a.txt", b"\x00\x01\x02\xff\xfe\xfd", "text/plain"),
    ],
)
def test_charset_stands_beside_text_only(path: str, data: bytes, expected: str) -> None:
    probe = Probe(path)
    probe.feed(data)
    assert probe.content_type() == expected


def test_a_guess_does_not_end_the_text() -> None:
    """A chunk may end within a character: a guess in between must not take that for an error."""
    probe = Probe("a.txt")
    first, rest = "안".encode()[:2], "안".encode()[2:]
    probe.feed(first)
    assert probe.content_type(so_far=True) == "text/plain; charset=utf-8"
    probe.feed(rest)
    assert probe.content_type() == "text/plain; charset=utf-8"
