"""Byte-preserving edits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.errors import BadValuesError
from release.values import scalars

CORPUS = {
    "plain": b"image:\n  tag: old\n",
    "double quotes": b'image:\n  tag: "old"   # why\n',
    "single quotes": b"image:\n  tag: 'old'\n",
    "empty": b"image:\n  tag:\n  other: 1\n",
    "empty with a comment": b"image:\n  tag:   # to come\n  other: 1\n",
    "empty at the end": b"image:\n  tag:",
    "crlf": b"# head\r\nimage:\r\n  tag: old # c\r\n\r\nother: 'x'\r\n",
    "flow": b"image: {tag: old, other: [1, 2]}   # one line\n",
    "flow json": b'{"image":{"tag":"old"},"other":1}\n',
    "anchor nobody uses": b"image:\n  tag: &t old\n",
    "tagged": b'image:\n  tag: !!str "old"\n',
    "folded neighbours": b"a: >-\n  folded\n  text\n\n\nimage:\n    tag: old\nb: |+\n  kept\n\n\n",
    "anchors elsewhere": b"x: &x {a: 1}\nimage:\n  tag: old\ny: *x\nz:\n  <<: *x\n",
    "odd quotes": b"a: 'it''s'\nb: \"\\u00e9\\\n  c\"\nimage: {tag: 'old'}\n",
    "korean": "# 한글\n이름: 값\nimage:\n  tag: old # 끝\n".encode(),
    "bom": b"\xef\xbb\xbfimage:\n  tag: old\n",
    "document marker": b"---\nimage:\n  tag: old\n",
    "trailing space": b"image:   \n  tag: old   \n\n\n   \n",
    "multi-line plain": b"image:\n  tag: old\n    and more\n  other: 1\n",
    "quoted keys": b"'image':\n  \"tag\": old\n",
}


@pytest.mark.parametrize("name", CORPUS)
def test_only_the_scalar_changes(name: str) -> None:
    before = CORPUS[name]
    after = scalars.edit(before, {("image", "tag"): "sha256:abc"}, "f.yaml")
    assert scalars.read(after, ("image", "tag"), "f.yaml") == "sha256:abc"
    # The new text stands between a head and a tail that are bytes of the old file.
    head = shared(before, after)
    tail = shared(before[head:][::-1], after[head:][::-1])
    assert len(after) - head - tail <= len(' "sha256:abc"')


def shared(one: bytes, other: bytes) -> int:
    """How many bytes they begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


@pytest.mark.parametrize("name", CORPUS)
def test_the_same_value_keeps_the_bytes(name: str) -> None:
    before = CORPUS[name]
    value = scalars.read(before, ("image", "tag"), "f.yaml")
    if value:
        assert scalars.edit(before, {("image", "tag"): value}, "f.yaml") == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image: {}\n", "has no key image.tag"),
        ("{}\n", "has no key image"),
        ("image: old\n", "has no key image.tag"),
        ("image:\n  tag: [old]\n", "not a scalar"),
        ("x: &t old\nimage:\n  tag: *t\n", "alias"),
        ("image:\n  tag: &t old\nx: *t\n", "is shared"),
        ("x: &x {tag: old}\nimage:\n  <<: *x\n", "inherited"),
        ("image:\n  tag: a\n  tag: b\n", "stands twice"),
        ("image:\n  tag: |\n    old\n", "block scalar"),
        ("image:\n  tag: &t\n", "anchor and no value"),
        ("image: {tag: old\n", "not YAML"),
        ("image:\n  tag: old\t# a tab that YAML libraries read differently\n", "line 2"),
        ("image:\n  tag: old\n---\nimage:\n  tag: old\n", "exactly one YAML document"),
        ("", "exactly one YAML document"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(BadValuesError, match=r"f\.yaml") as caught:
        scalars.edit(text.encode(), {("image", "tag"): "new"}, "f.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize("value", ["yes", "1", "0123", "1e5", "null", "~", "1:30", "0x1f", "on"])
def test_a_string_that_yaml_would_read_otherwise_gets_quotes(value: str) -> None:
    after = scalars.edit(b"tag: old\n", {("tag",): value}, "f.yaml")
    assert after == f'tag: "{value}"\n'.encode()


@pytest.mark.parametrize("character", ["\x00", "\x1f", "\x7f"])
def test_a_control_character_is_never_written(character: str) -> None:
    with pytest.raises(BadValuesError, match="control characters"):
        scalars.edit(b"tag: old\n", {("tag",): f"a{character}b"}, "f.yaml")


@pytest.mark.parametrize("character", [" ", "~", "\xa0"])
def test_what_stands_next_to_control_characters_is_written(character: str) -> None:
    after = scalars.edit(b"tag: old\n", {("tag",): f"a{character}b"}, "f.yaml")
    assert scalars.load(after, "f.yaml")["tag"] == f"a{character}b"


def test_numbers_stay_numbers() -> None:
    before = b"http:\n  - weight: 95 # main\n  - weight: 5\n"
    after = scalars.edit(
        before, {("http", 0, "weight"): 75, ("http", 1, "weight"): 25}, "routing.yaml"
    )
    assert after == b"http:\n  - weight: 75 # main\n  - weight: 25\n"


def test_bytes_that_are_not_utf_8_are_named() -> None:
    with pytest.raises(BadValuesError, match="byte 5"):
        scalars.edit(b"tag: \xff\n", {("tag",): "new"}, "f.yaml")


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)


@given(value=TEXT, old=TEXT, quote=st.sampled_from(["'", '"']), newline=st.sampled_from("\n\r"))
def test_any_text_can_be_written_and_read_back(
    value: str, old: str, quote: str, newline: str
) -> None:
    ending = "\r\n" if newline == "\r" else "\n"
    import json

    written = json.dumps(old) if quote == '"' else "'" + old.replace("'", "''") + "'"
    before = f"# c{ending}a: {{b: {written}}} # d{ending}c: 1{ending}".encode()
    after = scalars.edit(before, {("a", "b"): value}, "f.yaml")
    assert scalars.load(after, "f.yaml")["a"]["b"] == value
    head, tail = f"# c{ending}a: {{b: ".encode(), f"}} # d{ending}c: 1{ending}".encode()
    assert after.startswith(head)
    assert after.endswith(tail)
