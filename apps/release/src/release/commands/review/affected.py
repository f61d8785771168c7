"""`release affected`: which images must be built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from release.commands import output
from release.commands.frame import opened
from release.commands.options import (
    EnvOption,
    JsonOption,
    ManifestOptions,
    OutputOption,
    ReadsOption,
    expanded,
)
from release.git.program import Git
from release.records import affected as affected_images


@expanded
def affected(
    *,
    env: EnvOption = "dev",
    revision: Annotated[str, typer.Option("--revision", help="Commit of this clone.")] = "HEAD",
    manifests: ManifestOptions,
    output_file: OutputOption = None,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Images to build: those whose sources changed since what an environment runs."""
    with opened(json_output, manifests) as repo:
        at = repo.tree(repo.fetch())
        found = affected_images.affected(at, env, Git(Path.cwd()), revision)
        output.written(output_file, {"images": json.dumps([one.name for one in found])})
        content = {"images": [vars(one) for one in found]}
        output.printed(json_output, content, *(f"{one.name}: {one.why}" for one in found))
