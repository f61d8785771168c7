"""Commands a person could type, shown before they are run."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import typer

from flow.errors import FlowError


def run(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    shown: bool = False,
    accepted: tuple[int, ...] = (0,),
) -> str:
    """Standard output of a command; FlowError with standard error for a code not ``accepted``.

    An accepted code other than 0 returns standard error, too.

    ``shown`` prints the command first, as one would type it.
    """
    if shown:
        typer.echo(f"$ {shlex.join(arguments)}")
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode not in accepted:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-20:])
        raise FlowError(
            f"`{shlex.join(arguments)}` ended with exit code {done.returncode}:\n{said}"
        )
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr
