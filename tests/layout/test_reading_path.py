"""What a newcomer reads in an hour: few words, and those of the field."""

from __future__ import annotations

import re

import pytest

from tests.documented import ROOT

PATH = ("README.md", *(f"docs/{name}.md" for name in
        ("flow", "proxy", "inference", "unzip", "release", "operations")))  # fmt: skip
MOST_WORDS = 9_000
# Names of our own for things that have a name already, and clipped forms of sentences.
PRIVATE = re.compile(
    r"\b(aside|hurried|lanes?|pulses?|short way|crew|wire|afresh|turns?|(?:the )?door|"
    r"the proved|all at once|as a whole)\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)", re.MULTILINE | re.DOTALL)


def test_the_reading_path_is_read_in_an_hour() -> None:
    words = {page: len((ROOT / page).read_text(encoding="utf-8").split()) for page in PATH}
    assert sum(words.values()) <= MOST_WORDS, (
        f"{words}: move what is looked up rather than read to a page beside it"
    )


@pytest.mark.parametrize("page", PATH)
def test_the_reading_path_has_the_words_of_the_field(page: str) -> None:
    text = _CODE.sub(" ", (ROOT / page).read_text(encoding="utf-8"))
    assert PRIVATE.findall(text) == []


def test_code_and_links_are_not_read_as_words() -> None:
    """`PROXY_TARGET_TURN_MS` and a file's name are what they are called."""
    text = "The `stepped_aside` counter\n```sh\nturn\n```\n[why](a-short way.md) takes turns"
    assert PRIVATE.findall(_CODE.sub(" ", text)) == ["turns"]
