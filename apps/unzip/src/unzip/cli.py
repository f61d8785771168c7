"""The `unzip` command.

Exit codes: 0 done (refused archives included: they are recorded), 1 S3 or an archive failed,
2 wrong usage, 3 the S3 server cannot be relied on, 4 the archive was refused (`extract` only).
"""

from __future__ import annotations

import gc

import typer

from kit.memory.allocator import give_back_freed_memory
from kit.settings import reference
from unzip.commands.common import AsJson
from unzip.commands.extract import extract
from unzip.commands.retry import retry
from unzip.commands.run import run
from unzip.commands.status import status
from unzip.commands.watch import watch
from unzip.settings import UnzipSettings

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
for command in (run, watch, extract, retry, status):
    app.command()(command)


@app.command("settings")
def show_settings(as_json: AsJson = False) -> None:
    """Print the reference of the settings."""
    typer.echo(reference(UnzipSettings, title="unzip", as_json=as_json), nl=False)


def main() -> None:
    """Run the command."""
    give_back_freed_memory()
    # What was imported stays: the collector need not walk it again and again. Few of our own
    # objects form circles, so it may come by less often.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    app()
