"""The deployment log: the commits that changed an environment, read out of Git."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from release.git import message as msg
from release.git.commit_tree import CommitTree
from release.git.program import Git
from release.values import tree


@dataclass(frozen=True)
class State:
    """An environment at a commit: the blobs of its files, without holds.

    Two commits with the same ``files`` deploy the same thing (apart from charts and
    services' values, which all environments share).
    """

    logged: msg.Logged
    files: tuple[tuple[str, str], ...]

    @property
    def machine(self) -> tuple[tuple[str, str], ...]:
        """Only the image and model files: what is promoted and verified."""
        return machine_only(self.files)


def scope(at: CommitTree, environment: str, services: Sequence[str] = ()) -> tuple[str, ...]:
    """The files an operation on an environment (or some of its releases) is about."""
    paths = [
        path for path in at.files(f"values/{environment}") if path != tree.hold_file(environment)
    ]
    if not services:
        return tuple(paths)
    return tuple(p for p in paths if tree.release_of(p) in services)


def files_at(
    at: CommitTree, environment: str, services: Sequence[str] = ()
) -> tuple[tuple[str, str], ...]:
    """The files of `scope` with their blob ids."""
    return tuple((path, at.blob(path) or "") for path in scope(at, environment, services))


def machine_only(files: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The image and model files among ``files``."""
    return tuple(f for f in files if f[0].endswith(tree.MACHINE_SUFFIXES))


def log(
    git: Git, head: str, environment: str, services: Sequence[str] = (), limit: int = 0
) -> list[msg.Logged]:
    """Commits that changed an environment's values, newest first, along the first parents.

    ``limit`` is the greatest number of commits, 0 for all.
    """
    hold = f":(exclude){tree.hold_file(environment)}"
    paths = (
        [f"values/{environment}/{service}.*" for service in services]
        if services
        else [f"values/{environment}"]
    )
    count = [f"--max-count={limit}"] if limit else []
    arguments = ["--first-parent", f"--format={msg.LOG_FORMAT}", *count, head, "--", *paths, hold]
    return msg.parse_log(git.run("log", *arguments).decode(errors="replace"))


def logged(git: Git, commit: str) -> msg.Logged:
    """One commit's entry."""
    shown = git.run("log", "-1", f"--format={msg.LOG_FORMAT}", commit)
    return msg.parse_log(shown.decode(errors="replace"))[0]


def states(
    git: Git, head: str, environment: str, services: Sequence[str] = (), limit: int = 0
) -> list[State]:
    """The states an environment went through, newest first; the first one is the current."""
    return [
        State(entry, files_at(CommitTree(git, entry.commit), environment, services))
        for entry in log(git, head, environment, services, limit)
    ]
