"""Folders, files and rows that belong together: every release is listed, every file is read."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from release import policy
from release.render import Release
from release.tree import IMAGE_SUFFIX, MODEL_SUFFIX
from release.validate.findings import Finding

# Files below values/ that belong to an environment rather than to one of its releases.
_ENVIRONMENT_FILES = {"hold"}


def of_tree(root: Path, known: Sequence[str]) -> Iterator[Finding]:
    """Folders nobody deploys, and machine-owned files that cannot be read."""
    folders = {path.name for path in (root / "values").iterdir() if path.is_dir()} - {"base"}
    for name in sorted(folders - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"rename it to {near[0]}, or " if near else ""
        yield Finding(
            f"values/{name}", 0, "", f"nobody deploys the environment {name!r}: there is no "
            f"ApplicationSet argocd/{name}.yaml in {root.resolve()}",
            f"{hint}add argocd/{name}.yaml",
        )  # fmt: skip
    for name in sorted(set(known) - folders):
        yield Finding(
            f"argocd/{name}.yaml", 0, "", f"the environment {name!r} has no values",
            f"add values/{name}/",
        )  # fmt: skip
    for problem in policy.problems(_Folder(root)):
        yield Finding(policy.PATH, problem.line, problem.key, problem.message, problem.fix)


def of_environment(root: Path, environment: str, listed: Sequence[Release]) -> Iterator[Finding]:
    """Every release is listed, and every listed release exists."""
    argocd = f"argocd/{environment}.yaml"
    names = [release.name for release in listed]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Finding(argocd, 0, name, "is listed twice", "delete one of the rows")
    for path in sorted((root / "values" / environment).glob("*.yaml")):
        stem = path.name.split(".", 1)[0]
        if stem in names or stem in _ENVIRONMENT_FILES:
            continue
        near = difflib.get_close_matches(stem, names, n=1)
        yield Finding(
            f"values/{environment}/{path.name}", 0, stem,
            f"is an unknown release: {argocd} does not list it, so nothing reads this file",
            f"did you mean {near[0]}?" if near else f"add a row for it to {argocd}, or delete it",
        )  # fmt: skip
    for release in listed:
        machine = (IMAGE_SUFFIX, MODEL_SUFFIX)
        for absent in release.missing:
            if not absent.endswith(machine):
                yield Finding(
                    argocd, 0, release.name, f"is listed, but {absent} is not there",
                    f"write {absent}, or delete the row",
                )  # fmt: skip
    used = {path for release in listed for path in release.files}
    for path in sorted((root / "values" / environment).glob("*.yaml")):
        relative = f"values/{environment}/{path.name}"
        stem = path.name.split(".", 1)[0]
        if stem in names and relative not in used:
            yield Finding(
                relative, 0, "", "is read by nothing: the ApplicationSet names no such file",
                f"one of {stem}.yaml, {stem}{IMAGE_SUFFIX}, {stem}{MODEL_SUFFIX}",
            )  # fmt: skip


@dataclass(frozen=True)
class _Folder:
    """A folder as a snapshot."""

    root: Path
    commit: str = "work tree"

    def read(self, path: str) -> bytes | None:
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def files(self, folder: str) -> list[str]:
        found = (self.root / folder).rglob("*")
        return sorted(str(path.relative_to(self.root)) for path in found if path.is_file())
