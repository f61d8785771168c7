"""`release diff`, and `release comment` which shows it on a pull request."""

from __future__ import annotations

import contextlib
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
    github,
)
from release.errors import Exit, NotFoundError, ReleaseError
from release.git.program import Git
from release.git.repository import open_repo
from release.render import diff


@expanded
def diff_command(
    *,
    base: Annotated[str, typer.Argument(help="Commit to compare from.")],
    head: Annotated[str, typer.Argument(help="Commit to compare to.")] = "HEAD",
    env: EnvironmentsOption = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Also write one comment's worth of Markdown.")
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code/--no-exit-code", help="End with 2 when there is a change.")
    ] = True,
    manifest_repo: OtherRepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """What two commits of this clone would apply, compared: 0 same, 2 changed, 1 error.

    Of another repository HEAD is the newest commit of its branch.
    """
    with reported(json_output), contextlib.ExitStack() as stack:
        git, newest = Git(Path.cwd(), timeout=git_timeout), "HEAD"
        if manifest_repo is not None:
            repo = stack.enter_context(open_repo(manifest_repo, branch, timeout=git_timeout))
            git, newest = repo.git, repo.fetch()
        commits = []
        for name in (base, head):
            asked = newest + name.removeprefix("HEAD") if name.startswith("HEAD") else name
            commit = git.resolve(asked)
            if commit is None:
                raise ReleaseError(f"The clone has no commit {name!r}.", fix="fetch it first")
            commits.append(commit)
        found = diff.compare(git, commits[0], commits[1], env or ())
        title = f"What {commits[1][:12]} changes compared with {commits[0][:12]}"
        if markdown is not None:
            markdown.write_text(diff.markdown(found, title))
        content = {
            "base": commits[0],
            "head": commits[1],
            "applications": [
                {
                    "name": one.name,
                    "error": one.error,
                    "resources": [vars(resource) for resource in one.resources],
                }
                for one in found
            ],
        }
        summary = (
            f"{len(found)} applications change." if found else "Nothing that is applied changes."
        )
        said = output.Said(content, [*map(output.difference, found), summary])
        with output.before(json_output, said):
            broken = [one for one in found if one.error]
            if broken:
                raise ReleaseError(
                    f"{', '.join(one.name for one in broken)} cannot be rendered: "
                    f"{broken[0].error}",
                    fix="`release validate` names file, key and line",
                )
        if found and exit_code:
            raise typer.Exit(int(Exit.CHANGED))


@expanded
def comment(
    *,
    pull_request: Annotated[int, typer.Option("--pull-request", help="Its number.")],
    file: Annotated[Path, typer.Option("--file", help="Markdown of `release diff --markdown`.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the comment, write none.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a diff as a comment on a pull request, in place of the one before."""
    with reported(json_output):
        try:
            text = file.read_text()[: diff.COMMENT_LIMIT]
        except (OSError, UnicodeError) as error:
            raise NotFoundError(
                f"{file} cannot be read: {error}.", fix="`release diff --markdown` writes it"
            ) from error
        if dry_run:
            output.printed(json_output, {"dry_run": True, "url": None, "text": text}, text)
            return
        url = github().comment(pull_request, text, diff.MARKER)
        output.printed(json_output, {"url": url}, url)
