"""Every command can be asked for help, and its reference page says what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tests import references
from tests.members import commands

ROOT = Path(__file__).parents[2]
COMMANDS = commands()
# `release` has a generator of its own, which its own test compares.
GENERATED = tuple(name for name in COMMANDS if name != "release")


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from paths(below, (*path, name))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(name: str) -> None:
    """Found: brackets in a help text were taken for markup, and `trainer publish --help` failed."""
    for path in paths(get_command(COMMANDS[name])):
        result = CliRunner().invoke(COMMANDS[name], [*path, "--help"])
        assert result.exit_code == 0, (path, result.output, result.exception)
        assert "Usage" in result.output


@pytest.mark.parametrize("name", GENERATED)
def test_the_reference_page_is_what_the_command_says(name: str) -> None:
    written = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    assert written == references.page(name), "run `make reference`"
