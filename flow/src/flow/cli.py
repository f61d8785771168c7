"""The `flow` command."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help=__doc__)


def main() -> None:
    """Run the command."""
    app()
