"""Decision records: few, numbered once, short, in one form, each in the index by question.

A decision about a detail is a "Why" paragraph of the page of its topic, which the index lists too.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.documented import ROOT

FOLDER = ROOT / "docs/adr"
INDEX = FOLDER / "README.md"
RECORDS = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
MOST = 20
# "docs/adr/0022", "adr/0022-fast-path.md", "](0022-fast-path.md)" inside of the folder, "ADR 22"
_REFERENCE = re.compile(r"\badr/(\d{4})(-[a-z0-9-]+\.md)?|\bADRs? (\d{1,4})\b")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_is_short_and_complete(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    title = rf"# {int(path.name[:4])}\. [A-Z][^\n]*[^.\n]\n\n\*\*Context\.\*\* "
    assert re.match(title, text), f"{path.name} begins with `# <number>. <Sentence>`, then Context"
    parts = re.findall(r"^\*\*(\w+)\.\*\* ", text, re.MULTILINE)
    assert parts == ["Context", "Decision", "Consequences"], path.name
    assert 50 <= len(text.split()) <= 260


def test_there_are_few_and_numbers_are_used_once() -> None:
    numbers = [path.name[:4] for path in RECORDS]
    assert len(numbers) == len(set(numbers))
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name) for path in RECORDS)
    assert len(RECORDS) <= MOST, (
        "fold a record that only has a detail into a Why paragraph of its topic's page"
    )


def test_the_index_has_each_record_once() -> None:
    linked = re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", INDEX.read_text(encoding="utf-8"))
    assert sorted(linked) == [path.name for path in RECORDS]


def wrong_references(text: str, records: dict[str, str]) -> list[str]:
    """References of a text to records that do not exist, by number or by name of the file."""
    wrong = []
    for found in _REFERENCE.finditer(text):
        number = (found[1] or found[3]).zfill(4)
        name = records.get(number)
        if name is None or (found[2] and name != number + found[2]):
            wrong.append(found[0])
    return wrong


def test_no_reference_leads_to_a_record_that_does_not_exist() -> None:
    records = {path.name[:4]: path.name for path in RECORDS}
    listed = subprocess.run(
        ["git", "grep", "-lIE", r"adr/[0-9]{4}|ADRs? [0-9]", "--", ".", ":!tests/layout"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.splitlines()  # fmt: skip
    assert len(listed) > 5, "the pattern finds nothing"
    wrong = {path: found for path in listed
             if (found := wrong_references((ROOT / path).read_text("utf-8"), records))}  # fmt: skip
    assert wrong == {}, "docs/adr/README.md says where a folded record is now"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see docs/adr/0022.", []),
        ("[why](../adr/0022-a.md)", []),
        ("[why](../adr/0022-b.md)", ["adr/0022-b.md"]),
        ("(docs/adr/0023)", ["adr/0023"]),
        ("[ADR 23](x.md) and ADR 22", ["ADR 23"]),
    ],
)
def test_a_wrong_reference_is_found(text: str, wrong: list[str]) -> None:
    assert wrong_references(text, {"0022": "0022-a.md"}) == wrong
