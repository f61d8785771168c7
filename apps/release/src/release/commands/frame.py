"""The frame of a command: errors become a sentence and an exit code, a plan becomes a commit."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import stamina
import typer

from release.changes import transaction
from release.commands import output
from release.commands.options import ManifestOptions, SigningOptions, SourcedManifestOptions
from release.errors import ReleaseError
from release.git.repository import ManifestRepo


@contextlib.contextmanager
def reported(json_output: bool) -> Iterator[None]:
    """Report errors by their sentence and exit code."""
    # A retry is no news to the reader; by default each would be logged on standard output.
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        yield
    except ReleaseError as error:
        output.failed(json_output, error)
        raise typer.Exit(int(error.exit)) from error
    except KeyboardInterrupt as error:
        sys.stderr.write("release: interrupted; running the command again finishes it\n")
        raise typer.Exit(130) from error


def now() -> datetime:
    """The time of this run, to the second: what is written can be read back equal."""
    return datetime.now(UTC).replace(microsecond=0)


@contextlib.contextmanager
def opened(
    json_output: bool, manifests: ManifestOptions | SourcedManifestOptions
) -> Iterator[ManifestRepo]:
    """The manifest repository, with errors reported."""
    with reported(json_output), manifests.open() as repo:
        yield repo


def committed(
    repo: ManifestRepo,
    planner: transaction.Planner,
    signing: SigningOptions,
    *,
    dry_run: bool,
    json_output: bool,
    output_file: Path | None = None,
) -> None:
    """Commit what a planner plans, and say what became of it."""
    result = signing.apply(repo, planner, dry_run=dry_run)
    output.written(output_file, {"commit": result.commit or ""})
    output.show(json_output, output.outcome(result, dry_run))


def person(repo: ManifestRepo | None = None) -> str:
    """Who is doing this: the CI's actor, Git's user, or the login name."""
    if actor := os.environ.get("GITHUB_ACTOR"):
        return actor
    if repo is not None:
        code, out, _ = repo.git.attempt("config", "user.name")
        if code == 0 and out.strip():
            return out.decode(errors="replace").strip()
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"
