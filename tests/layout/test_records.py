"""Decision records are numbered once, short, and say context, decision and consequences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "docs/adr").glob("*.md"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_is_short_and_complete(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(rf"# (0*{int(path.name[:4])}\.? )?\S", text), "it begins with its title"
    for part in ("Context", "Decision", "Consequences"):
        assert part in text, f"{path.name} says nothing under {part}"
    assert 50 <= len(text.split()) <= 220


def test_numbers_are_used_once() -> None:
    numbers = [path.name[:4] for path in RECORDS]
    assert len(numbers) == len(set(numbers))
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name) for path in RECORDS)
