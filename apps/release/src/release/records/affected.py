"""Which images must be built: those whose sources changed since what an environment runs.

Compared with what is *deployed*, not with the last push: a build that failed, or one that gave
way to a newer one, is made up for by the next.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from release.errors import NotFoundError
from release.git.commit_tree import CommitTree
from release.git.program import Git
from release.values import tree

# What every image is made of beside its own folder.
SHARED = ("Dockerfile", "pyproject.toml", "uv.lock", ".dockerignore")
_PREFIX = "slipway-"


@dataclass(frozen=True)
class Affected:
    """An image to build, and the first reason for it."""

    name: str
    why: str


def sources(source: CommitTree, image: str) -> tuple[str, ...]:
    """The folders and files an image is built from, its workspace dependencies included.

    Raises NotFoundError when apps/<image>/pyproject.toml is not there.
    """
    found: dict[str, None] = {}
    waiting = [image]
    while waiting:
        name = waiting.pop()
        folder = f"apps/{name}"
        if folder in found:
            continue
        project = source.read(f"{folder}/pyproject.toml")
        if project is None:
            raise NotFoundError(f"The source has no {folder}/pyproject.toml.")
        found[folder] = None
        for requirement in tomllib.loads(project.decode())["project"].get("dependencies", []):
            if requirement.startswith(_PREFIX):
                waiting.append(requirement.removeprefix(_PREFIX).split("[")[0].split(" ")[0])
    return (*found, *SHARED)


def affected(manifests: CommitTree, environment: str, source: Git, revision: str) -> list[Affected]:
    """Images to build for ``revision``, a commit of ``source``, sorted by name.

    Raises NotFoundError for an unknown environment or revision.
    """
    tree.require_environment(manifests, environment)
    commit = source.resolve(revision)
    if commit is None:
        raise NotFoundError(f"This clone has no commit {revision!r}.", fix="fetch it first")
    new = CommitTree(source, commit)
    wanted = []
    for image, deployed in sorted(_deployed(manifests, environment).items()):
        if new.read(f"apps/{image}/pyproject.toml") is None:
            continue  # an image that is not built here
        why = _why(source, new, deployed, sources(new, image))
        if why:
            wanted.append(Affected(image, why))
    return wanted


def _deployed(manifests: CommitTree, environment: str) -> Mapping[str, list[str]]:
    """Source revisions per image; an empty one for a release that is not deployed."""
    found: dict[str, list[str]] = {}
    for name, image in tree.images(manifests, environment).values():
        found.setdefault(name, []).append(image.revision)
    return found


def _why(source: Git, new: CommitTree, deployed: Sequence[str], paths: Sequence[str]) -> str:
    for revision in deployed:
        if not revision:
            return "not deployed yet"
        if source.resolve(revision) is None:
            return f"its deployed revision {revision[:12]} is unknown here"
        changed = source.text("diff", "--name-only", revision, new.commit, "--", *paths)
        if changed:
            return f"{changed.splitlines()[0]} changed since {revision[:12]}"
    return ""
