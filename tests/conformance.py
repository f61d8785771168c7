"""Writes what a corpus of other projects' inputs showed into docs/conformance.md."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"


def replace_section(page: str, title: str, body: str) -> str:
    """``page`` with the section ``## title`` replaced by ``body``, or added at the end."""
    section = f"## {title}\n\n{body.strip()}\n"
    there = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if there.search(page) is None:
        return f"{page.rstrip()}\n\n{section}"
    return there.sub(lambda _: f"{section}\n", page, count=1).rstrip() + "\n"


def write_section(title: str, body: str) -> None:
    """Put a corpus's table into the page; other corpora's sections stay as they are."""
    with PAGE.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        page = replace_section(file.read(), title, body)
        file.seek(0)
        file.truncate()
        file.write(page)
