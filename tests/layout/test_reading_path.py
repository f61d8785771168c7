"""What a newcomer reads in an hour: few words, and those of the field."""

from __future__ import annotations

import re

from tests.documented import ROOT

PATH = ("README.md", *(f"docs/{name}.md" for name in
        ("flow", "proxy", "inference", "unzip", "release", "operations")))  # fmt: skip
MOST_WORDS = 9_000
# Names of our own for things that have a name already, and words that leave open what is meant.
PRIVATE = re.compile(
    r"\b(afresh|aside|at once|crew|doors?|hurried|in flight|lanes?|mend(?:s|ed)?|proved|pulses?|"
    r"short way|told|turns?|under way|wire)\b",
    re.IGNORECASE,
)
# Written by programs, or a table of what they said.
GENERATED = re.compile(r"docs/(reference/|conformance\.md|testing\.md)")
PAGES = sorted(
    name
    for page in (*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
                 *(ROOT / "docs").rglob("*.md"))
    if not GENERATED.match(name := page.relative_to(ROOT).as_posix())
)  # fmt: skip
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)", re.MULTILINE | re.DOTALL)


def test_the_reading_path_is_read_in_an_hour() -> None:
    words = {page: len((ROOT / page).read_text(encoding="utf-8").split()) for page in PATH}
    assert sum(words.values()) <= MOST_WORDS, (
        f"{words}: move what is looked up rather than read to a page beside it"
    )


def test_the_pages_have_the_words_of_the_field() -> None:
    assert set(PATH) < set(PAGES)
    texts = {page: _CODE.sub(" ", (ROOT / page).read_text(encoding="utf-8")) for page in PAGES}
    found = {page: words for page, text in texts.items() if (words := PRIVATE.findall(text))}
    assert found == {}, "say it with the field's word, or in a full sentence"


def test_code_and_links_are_not_read_as_words() -> None:
    """`PROXY_TARGET_TURN_MS` and a file's name are what they are called."""
    text = "The `stepped_aside` counter\n```sh\nturn\n```\n[why](a-short way.md) takes turns"
    assert PRIVATE.findall(_CODE.sub(" ", text)) == ["turns"]
