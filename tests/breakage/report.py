"""What was said, and the table of it in docs/testing.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.breakage.ways import Way

BEGIN, END = "<!-- breakage: begin -->\n", "<!-- breakage: end -->\n"
HEAD = "| kind | way | validate | verify | status |\n|---|---|---|---|---|\n"
COMMANDS = ("validate", "verify", "status")
LONGEST = 170


@dataclass
class Said:
    """What a command said of it, and how many seconds after it was broken."""

    green: bool
    text: str
    seconds: float

    def __str__(self) -> str:
        text = self.text if len(self.text) <= LONGEST else self.text[: LONGEST - 1] + "…"
        return f"{'green' if self.green else text} ({self.seconds:.0f} s)"


def row(way: Way, said: Mapping[str, Said]) -> str:
    """A line of the table."""
    mark = " (stranger's)" if way.stranger else ""
    remark = f"; {way.remark}" if way.remark else ""
    absent = "not deployed" if set(said) == {"validate"} else ""
    cells = [str(said[name]).replace("|", "\\|") if name in said else absent for name in COMMANDS]
    return f"{_key(way)}{mark}{remark} | {' | '.join(cells)} |\n"


def _key(way: Way) -> str:
    return f"| {way.kind} | {way.what}"


def written(text: str, ways: Sequence[Way], rows: Mapping[Way, str]) -> str:
    """A page with its table anew: rows that were not run stay, and say so where there is none."""
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    lines = old.splitlines(keepends=True)
    made = []
    for way in ways:
        not_run = f"{_key(way)} | not run | | |\n"
        there = next((line for line in lines if line.startswith(_key(way))), not_run)
        made.append(rows.get(way, there))
    return f"{before}{BEGIN}{HEAD}{''.join(made)}{END}{after}"


def write(page: Path, ways: Sequence[Way], rows: Mapping[Way, str]) -> None:
    """Write the table into a page that has its two marks."""
    page.write_text(written(page.read_text(), ways, rows))
