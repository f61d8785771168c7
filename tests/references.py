"""Writes docs/reference of every command line and every service's settings: `make reference`."""

from __future__ import annotations

import subprocess
import sys

from kit import settings
from tests.members import ROOT, commands, module_of, services, settings_of

FOLDER = ROOT / "docs" / "reference"


def page(command: str) -> str:
    """The page of a command line, as typer writes it."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", module_of(command), "utils", "docs", "--name", command],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.rstrip() + "\n"


def main() -> None:
    """Write all of them."""
    for name in commands():
        if name != "release":  # it has a generator of its own, with its exit codes
            (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")
    for name in services():
        known = settings_of(name)
        assert known is not None
        for suffix, as_json in (("md", False), ("json", True)):
            text = settings.reference(known, title=name, as_json=as_json)
            (FOLDER / f"settings-{name}.{suffix}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
