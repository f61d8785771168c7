"""The services' own programs, which `release` asks instead of importing them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from release.errors import BadReferenceError, NotFoundError

SECONDS = 600.0


def ask(program: str, *arguments: str) -> dict[str, Any]:
    """Run a program that prints one JSON object.

    Raises NotFoundError where it is not installed, BadReferenceError with its own words where it
    refuses what it is given.
    """
    beside = shutil.which(program, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(program)
    if found is None:
        raise NotFoundError(
            f"{program} is not installed.",
            fix=f"install it beside `release`: `uv sync --all-packages`, or slipway-{program}",
        )
    try:
        done = subprocess.run(
            [found, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise BadReferenceError(
            f"`{program} {arguments[0]}` did not end within {SECONDS:g} s."
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BadReferenceError(said[-1] if said else f"{program} ended with {done.returncode}.")
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise BadReferenceError(f"{program} printed no JSON: {done.stdout[:200]!r}.") from error
    return document
