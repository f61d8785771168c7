"""A new service: its package, tests, values and page, and a row in each environment."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from release import layout, render, tree
from release.create import rows
from release.errors import BadReferenceError, ConflictError, NotFoundError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_PATH = re.compile(r"(?:/[a-z0-9][a-z0-9._-]*)+")
LONGEST_NAME = 40
"""Characters: Kubernetes adds its own to the names of Jobs and pods, up to 63 in all."""
TAKEN = frozenset({"environment", "routing", "gateway", "worker", "kit"})
EMPTY_IMAGE = (
    "# Written by `release`; do not edit.\n"
    'image:\n  repository: ""\n  tag: ""\n  digest: ""\n  revision: ""\n'
)
Files = dict[str, bytes]


@dataclass(frozen=True)
class NewService:
    """What is asked for; ``path`` is its prefix at the gateway."""

    name: str
    path: str = ""
    environments: Sequence[str] = ()

    @property
    def module(self) -> str:
        """The name of its Python package."""
        return self.name.replace("-", "_")


def planned(root: Path, wanted: NewService) -> Files:
    """Files to write below ``root``, a checkout, by path; nothing is written here.

    Raises BadReferenceError for a name or path that cannot be, ConflictError for one that is
    taken, NotFoundError for an environment or a checkout that is not there.
    """
    _check_name(wanted.name)
    known = render.environments(root)
    if not (root / "apps").is_dir() or not known:
        raise NotFoundError(
            f"{root.resolve()} is no checkout of Slipway: it lacks apps/ or {layout.ENVIRONMENTS}.",
            fix="run the command at the top of the repository, or name it with --root",
        )
    for environment in wanted.environments:
        if environment not in known:
            raise NotFoundError(
                f"Nobody deploys the environment {environment!r}.",
                fix=f"use one of {', '.join(known)}",
            )
    path = wanted.path or f"/{wanted.name}"
    if not _PATH.fullmatch(path):
        raise BadReferenceError(
            f"The path {path!r} is no prefix of a URL.", fix="write it like /ranker or /v1/rank"
        )
    _check_free(root, wanted.name)
    files = _rendered(wanted, path)
    for environment in wanted.environments or known:
        file = layout.environment_file(environment)
        text = (root / file).read_text()
        text = rows.with_routes(rows.with_row(text, file, wanted.name), file, wanted.name)
        files[file] = text.encode()
        files[tree.image_file(environment, wanted.name)] = EMPTY_IMAGE.encode()
    return files


def write(root: Path, files: Mapping[str, bytes]) -> None:
    """Write planned files below a checkout."""
    for name, content in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise BadReferenceError(
            f"The name {name!r} is no name of a service.",
            fix="write lower-case letters and digits, with single dashes between them, at most "
            f"{LONGEST_NAME} characters, like fraud-scorer",
        )
    module = name.replace("-", "_")
    if name in TAKEN or name in layout.NO_ENVIRONMENTS or module in sys.stdlib_module_names:
        raise BadReferenceError(
            f"The name {name!r} has a meaning of its own here or is a module of Python's.",
            fix="choose another name, for example with your team's name in front",
        )


def _check_free(root: Path, name: str) -> None:
    module = name.replace("-", "_")
    folders = (
        f"apps/{name}",
        f"{layout.SERVICES}/{name}",
        f"tests/{module}",
        f"docs/services/{name}.md",
    )
    for folder in folders:
        if (root / folder).exists():
            raise ConflictError(
                f"There is {folder} already.", fix="choose another name, or delete it first"
            )
    for environment in render.environments(root):
        for release in render.releases(root, environment):
            if name in (release.name, release.of):
                raise ConflictError(
                    f"{layout.environment_file(environment)} lists a release {release.name} "
                    f"already.", fix="choose another name",
                )  # fmt: skip


def _rendered(wanted: NewService, path: str) -> Files:
    """The template's files."""
    # It takes half a second to import, and no other command needs it.
    from copier import run_copy  # noqa: PLC0415

    answers = {
        "name": wanted.name,
        "module": wanted.module,
        "class_name": "".join(part.capitalize() for part in wanted.name.split("-")),
        "prefix": f"{wanted.module.upper()}_",
        "path": path,
    }
    with (
        resources.as_file(resources.files("release") / "templates" / "service") as template,
        tempfile.TemporaryDirectory(prefix="release-new-") as scratch,
    ):
        run_copy(str(template), scratch, data=answers, defaults=True, quiet=True)
        return {
            str(path.relative_to(scratch)): path.read_bytes()
            for path in sorted(Path(scratch).rglob("*"))
            if path.is_file()
        }
