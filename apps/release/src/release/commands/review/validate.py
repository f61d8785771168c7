"""`release validate`: what is wrong with a tree before it is committed."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from release.commands import output
from release.commands.frame import reported
from release.commands.options import (
    BranchOption,
    EnvironmentsOption,
    GitTimeoutOption,
    JsonOption,
    OtherRepoOption,
    ReadsOption,
    expanded,
)
from release.errors import Exit, ReleaseError
from release.git.repository import open_repo


@expanded
def validate_command(
    *,
    root: Annotated[
        Path,
        typer.Argument(help="Folder with charts, values and argocd.", exists=True, file_okay=False),
    ] = Path(),
    env: EnvironmentsOption = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="Commit that this is to be merged into: changes to what is held there are "
            "refused.",
        ),
    ] = None,
    manifest_repo: OtherRepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Render every release of every environment and say what is wrong, file, key and line.

    Looked at is the folder as it is, committed or not, or the newest commit of another
    repository.
    """
    # It renders with Helm and reads JSON schemas; other commands need neither.
    from release import validate  # noqa: PLC0415
    from release.render import helm  # noqa: PLC0415

    with reported(json_output), contextlib.ExitStack() as stack:
        started = time.monotonic()
        if manifest_repo is not None:
            if base is not None:
                raise ReleaseError(
                    "--base compares the folder at hand, --manifest-repo looks elsewhere.",
                    fix="leave one of them out",
                )
            repo = stack.enter_context(open_repo(manifest_repo, branch, timeout=git_timeout))
            root = stack.enter_context(helm.exported(repo.git, repo.fetch()))
        report = validate.validate(root, env or (), base)
        seconds = time.monotonic() - started
        output.printed(
            json_output,
            {
                "findings": [vars(finding) for finding in report.findings],
                "releases": report.rendered,
                "manifests": report.manifests,
                "seconds": round(seconds, 2),
                "notes": list(report.notes),
            },
            *(str(finding) for finding in report.findings),
            *report.notes,
            f"{report.rendered} releases, {report.manifests} manifests, "
            f"{len(report.findings)} findings in {seconds:.1f} s.",
        )
        if report.findings:
            raise typer.Exit(int(Exit.ERROR))
