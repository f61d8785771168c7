"""Brings an edit of values, charts or argocd to the cluster: validate, commit, push, verify."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flow import command
from flow.errors import FlowError
from release.values import layout, tree
from release.values.folder import Folder

APPLIED = ("values", "charts", "argocd")
"""What an edit is committed of; the rest of a work tree is left as it is."""


def commit_edits(repo: Path, message: str) -> list[str]:
    """Commit what was changed below values, charts and argocd; return the changed paths.

    ``message`` may be empty, then it names the files. Nothing changed is no commit.
    """
    listed = _git(repo, "status", "--porcelain", "-z", "--untracked-files=all", "--", *APPLIED)
    entries = iter(listed.split("\0"))
    changed = []
    for entry in entries:
        if entry:
            changed.append(entry[3:])
            if entry[0] in "RC":  # the former path follows in an entry of its own
                changed.append(next(entries))
    if changed:
        _git(repo, "add", "--", *APPLIED)
        text = message or _subject(changed)
        _git(repo, "commit", "--quiet", f"--message={text}", "--", *APPLIED)
    return changed


def validated(repo: Path) -> str:
    """What `release validate` says of a work tree; FlowError with its findings where it has any."""
    return command.run("release", "validate", str(repo)).strip()


def touched(paths: Iterable[str], environments: Iterable[str]) -> list[str]:
    """The environments that a change of these paths reaches: one of its own, or all."""
    known = list(environments)
    found = set()
    for path in paths:
        parts = path.split("/")
        own = parts[1] if parts[0] == "values" and len(parts) > 2 else None
        if own is None or own in layout.NO_ENVIRONMENTS:
            own = layout.environment_of(path)
        if own in known:
            found.add(own)
        elif parts[0] in APPLIED:
            return known
    return [name for name in known if name in found]


def deployed(clone: Path, environment: str) -> bool:
    """Whether anything of an environment runs an image yet."""
    images = tree.images(Folder(clone), environment).values()
    return any(image.deployed for _, image in images)


def between(clone: Path, before: str, after: str) -> list[str]:
    """Paths that differ between two commits of a clone."""
    return _git(clone, "diff", "--name-only", before, after).splitlines()


def _subject(changed: list[str]) -> str:
    names = sorted({path.rsplit("/", 1)[-1] for path in changed})
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"Change {', '.join(names[:2])}{more}"[:72]


def _git(repo: Path, *arguments: str) -> str:
    try:
        return command.run("git", "-C", str(repo), *arguments)
    except FlowError as error:
        raise FlowError(f"git {arguments[0]} failed in {repo}: {error}") from error
