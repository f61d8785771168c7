"""release.commands.options: a command that takes a group of options has each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from release.commands.options import expanded


@dataclass(frozen=True)
class Where:
    """A group with an option that must be named and one that need not."""

    place: Annotated[str, typer.Option("--place", help="Where.")]
    floor: Annotated[int, typer.Option("--floor", envvar="FLOOR", help="How high.")] = 2


def command(seen: list[object]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @expanded
    def look(
        name: Annotated[str, typer.Argument(help="Who.")],
        *,
        where: Where,
        loud: Annotated[bool, typer.Option("--loud", help="How.")] = False,
        unused: Annotated[bool, typer.Option("--unused", expose_value=False)] = False,
    ) -> None:
        """Look for somebody."""
        seen.append((name, where, loud))

    return app


def test_a_group_is_filled_from_its_options() -> None:
    seen: list[object] = []
    arguments = ["ada", "--place", "Seoul", "--floor", "9", "--loud", "--unused"]
    assert CliRunner().invoke(command(seen), arguments).exit_code == 0
    assert seen == [("ada", Where("Seoul", 9), True)]


def test_defaults_and_variables_of_a_group_count() -> None:
    seen: list[object] = []
    for environment in ({}, {"FLOOR": "5"}):
        answer = CliRunner().invoke(command(seen), ["ada", "--place", "Seoul"], env=environment)
        assert answer.exit_code == 0
    assert seen == [("ada", Where("Seoul", 2), False), ("ada", Where("Seoul", 5), False)]


@pytest.mark.parametrize("arguments", [["ada"], ["ada", "--place", "x", "--floor", "low"]])
def test_what_a_group_needs_is_asked_for(arguments: list[str]) -> None:
    seen: list[object] = []
    assert CliRunner().invoke(command(seen), arguments).exit_code == 2
    assert seen == []


def test_the_help_lists_options_in_the_order_of_the_signature() -> None:
    text = CliRunner().invoke(command([]), ["--help"], env={"COLUMNS": "200"}).output
    order = [text.index(option) for option in ("--place", "--floor", "--loud", "--unused")]
    assert order == sorted(order)
    assert "Look for somebody." in text
