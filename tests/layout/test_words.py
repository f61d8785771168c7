"""Sources use the field's words: no word that only this repository gives a meaning of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WORDS = (
    "aside", "whole", "at once", "hurried", "lane", "lanes", "places", "turn", "turns", "pulse",
    "short way", "flight", "flights", "crew", "wire", "told", "taken", "afresh", "door", "doors",
    "proved",
)  # fmt: skip
CLEAN = (
    "apps/inference",
    "apps/kit",
    "apps/proxy",
    "apps/release",
    "apps/trainer",
    "apps/unzip",
    "cluster",
    "flow",
)
"""Folders without these words. A folder is added once it is clean."""
KEPT = ('"afresh"', '"proved"', '"taken"', "answer-not-taken")
"""What users rely on: names of errors, fields, metrics and settings."""

PRIVATE = re.compile(rf"\b({'|'.join(re.escape(word) for word in WORDS)})\b", re.IGNORECASE)
SUFFIXES = {".py", ".html", ".toml", ".md"}


def found(line: str) -> list[str]:
    """The private words of a line."""
    for kept in KEPT:
        line = line.replace(kept, "")
    return [match[0] for match in PRIVATE.finditer(line)]


@pytest.mark.parametrize("folder", CLEAN)
def test_no_word_has_a_meaning_that_only_this_repository_knows(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {', '.join(words)}"
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SUFFIXES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (words := found(line))
    ]
    assert wrong == []


def test_private_words_are_found() -> None:
    assert found("Stepped ASIDE at once, told by turns") == ["ASIDE", "at once", "told", "turns"]
    assert found('stepped_aside, returned, {"taken": 3}, in_flight, answer-not-taken') == []
