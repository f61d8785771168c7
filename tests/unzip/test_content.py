"""Types from our own table, charsets from the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unzip.content import Probe, TextProbe, media_type


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
    assert _charset(*(data[n : n + size] for n in range(0, len(data), size))) == "utf-8"


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
