"""Git's post-receive hook of the one-machine manifest repo: wakes Argo CD, as its webhook does.

``cluster up`` copies this file beside the hook, so it uses nothing but Python's own library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

PATHS = "argocd.argoproj.io/manifest-generate-paths"
REFRESH = "argocd.argoproj.io/refresh=normal"
BRANCH = "refs/heads/main"


def main(kubectl: Sequence[str], pushed: Iterable[str]) -> None:
    """Have the Applications look that what was ``pushed`` is about.

    ``pushed`` has lines of old commit, new commit and reference, as Git writes them. Where a
    command fails nothing is woken: Argo CD polls as well.
    """
    for line in pushed:
        old, new, reference = line.split()
        if reference != BRANCH:
            continue
        found = json.loads(_run(*kubectl, "get", "applications.argoproj.io", "--output=json"))
        changed = None if set(old) == {"0"} else _run("git", "diff", "--name-only", "-z", old, new)
        names = woken(found["items"], changed and changed.rstrip("\0").split("\0"))
        if names:
            _run(*kubectl, "annotate", "applications.argoproj.io", "--overwrite", *names, REFRESH)


def woken(applications: Sequence[Any], changed: Sequence[str] | None) -> list[str]:
    """Names of the Applications that changed files are about; None is any file.

    As Argo CD's own webhook has it (util/app/path): the annotation's paths are files, folders or
    patterns, relative to the source's path or absolute in the repo; without it everything counts.
    """
    return [
        application["metadata"]["name"]
        for application in applications
        if not (paths := _paths(application))
        or changed is None
        or any(_is_of(PurePosixPath("/", file), path) for file in changed for path in paths)
    ]


def _paths(application: Any) -> list[PurePosixPath]:
    paths_text = application["metadata"].get("annotations", {}).get(PATHS, "")
    folder = PurePosixPath("/", application["spec"].get("source", {}).get("path", ""))
    paths = [folder / path.strip() for path in paths_text.split(";") if path.strip()]
    return [PurePosixPath(normpath(path)) for path in paths]


def _is_of(file: PurePosixPath, path: PurePosixPath) -> bool:
    return file.is_relative_to(path) or (
        # A pattern's star ends at a slash.
        len(file.parts) == len(path.parts) and all(map(fnmatchcase, file.parts, path.parts))
    )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin)
