"""`release version`: which version this is, and how the next one is made."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from release.commands.frame import reported
from release.commands.options import DryRunOption, JsonOption
from release.errors import ConflictError
from release.git.program import Git
from release.records import versions


def version_command(
    part: Annotated[
        versions.Part | None,
        typer.Option("--next", help="Make the next version: major, minor or patch."),
    ] = None,
    *,
    root: Annotated[
        Path, typer.Option("--root", help="The checkout.", exists=True, file_okay=False)
    ] = Path(),
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Print the version of this checkout, or commit and tag the next one.

    The next version gets what CHANGELOG.md says under Unreleased, a commit and a tag; nothing is
    pushed.
    """
    with reported(json_output):
        git = Git(root)
        if part is None:
            _say(versions.described(git), [], json_output=json_output)
            return
        before = versions.latest(git) or versions.Version(0, 0, 0)
        version = before.following(part)
        file = root / versions.CHANGELOG
        text = versions.released(file.read_text(), version, datetime.now(UTC).date())
        steps = [f"git push --atomic origin HEAD {version.tag}"]
        if not dry_run:
            if git.text("status", "--porcelain").strip():
                raise ConflictError(
                    "The checkout has changes that are not committed.",
                    fix="commit or stash them first: a version is a commit",
                )
            file.write_text(text)
            git.run("add", "--", versions.CHANGELOG)
            git.run("commit", "--quiet", f"--message=Release {version}")
            git.run("tag", "--annotate", version.tag, f"--message=Release {version}")
        _say(str(version), steps, json_output=json_output)


def _say(version: str, steps: list[str], *, json_output: bool) -> None:
    if json_output:
        sys.stdout.write(json.dumps({"version": version, "next": steps}) + "\n")
        return
    sys.stdout.write(f"{version}\n")
    for step in steps:
        sys.stderr.write(f"next: {step}\n")
