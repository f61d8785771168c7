"""A new environment: its values, its ApplicationSet and project, made from one that is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from release import layout, render, tree
from release.create.service import EMPTY_IMAGE, Files
from release.errors import BadReferenceError, BadValuesError, ConflictError, NotFoundError

_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_REDIS = re.compile(r"(rediss?://[^\s/'\"]+/)(\d+)")
_BUCKET = re.compile(r"""((?:\b[A-Z_]*BUCKET:|"bucket":)\s*["']?)([a-z0-9][a-z0-9.-]*)""")
_OPTIONS = re.compile(r"(options: \[)([^\]]*)(\])")
LONGEST_NAME = 30
REDIS_DATABASES = 16
"""How many a Redis has unless it is told another number."""
NO_MODELS = "# Written by `release`; do not edit.\nmodels: {}\n"
WORKFLOWS = (".github/workflows/promote.yaml", ".github/workflows/rollback.yaml")


@dataclass(frozen=True)
class NewEnvironment:
    """What is asked for: a name, and the environment whose versions are promoted into it."""

    name: str
    after: str
    like: str = ""
    """The environment whose files it begins with; ``after`` where none is named."""


def planned(root: Path, wanted: NewEnvironment) -> Files:
    """Files to write below ``root``, a checkout, by path; nothing is written here.

    Raises BadReferenceError for a name that cannot be, ConflictError for one that is taken,
    NotFoundError for an environment that is not there, BadValuesError where no Redis is left.
    """
    known = render.environments(root)
    if not _NAME.fullmatch(wanted.name) or len(wanted.name) > LONGEST_NAME:
        raise BadReferenceError(
            f"The name {wanted.name!r} is no name of an environment, which is a namespace as well.",
            fix=f"write lower-case letters, digits and dashes, at most {LONGEST_NAME}, like qa",
        )
    if wanted.name in layout.NO_ENVIRONMENTS or wanted.name in ("root", "platform"):
        raise BadReferenceError(
            f"The name {wanted.name!r} has a meaning of its own here.", fix="choose another name"
        )
    if wanted.name in known or (root / "values" / wanted.name).exists():
        raise ConflictError(f"There is an environment {wanted.name} already.")
    like = wanted.like or wanted.after
    for name in (wanted.after, like):
        if name not in known:
            raise NotFoundError(
                f"Nobody deploys the environment {name!r}.", fix=f"use one of {', '.join(known)}"
            )
    files: Files = {}
    for path in (layout.environment_file(like), layout.project_file(like)):
        text = _renamed((root / path).read_text(), like, wanted.name)
        files[_renamed(path, like, wanted.name)] = text.encode()
    files |= _values(root, known, like, wanted.name)
    files |= _workflows(root, wanted)
    return files


def _values(root: Path, known: list[str], like: str, name: str) -> Files:
    """The values of another environment, with hosts, buckets and a Redis database of its own."""
    files: Files = {}
    database = _free_database(root, known)
    for release in render.releases(root, like):
        own = root / layout.values_file(like, release.name)
        if own.is_file():
            text = _own_stores(_renamed(own.read_text(), like, name), name, database)
            files[layout.values_file(name, release.name)] = text.encode()
        if (root / tree.image_file(like, release.name)).is_file():
            files[tree.image_file(name, release.name)] = EMPTY_IMAGE.encode()
        if (root / tree.models_file(like, release.name)).is_file():
            files[tree.models_file(name, release.name)] = NO_MODELS.encode()
    return files


def _renamed(text: str, old: str, new: str) -> str:
    """One environment's name in the place of another's, as a word of its own."""
    return re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w])|(?<=-){re.escape(old)}(?![\w-])", new, text)


def _own_stores(text: str, name: str, database: int) -> str:
    """Text of values in which no store is one of another environment's."""
    text = _REDIS.sub(rf"\g<1>{database}", text)

    def bucket(found: re.Match[str]) -> str:
        ours = found[2] if found[2].endswith(f"-{name}") else f"{found[2]}-{name}"
        return found[1] + ours

    return _BUCKET.sub(bucket, text)


def _free_database(root: Path, known: list[str]) -> int:
    taken = {
        int(found[2])
        for name in known
        for path in (root / "values" / name).glob("*.yaml")
        for found in _REDIS.finditer(path.read_text())
    }
    free = next((number for number in range(REDIS_DATABASES) if number not in taken), None)
    if free is None:
        raise BadValuesError(
            f"The environments have all {REDIS_DATABASES} databases of their Redis.",
            fix="give the new environment a Redis of its own in its values",
        )
    return free


def _workflows(root: Path, wanted: NewEnvironment) -> Files:
    """The workflows whose lists of environments people choose from, with one more."""
    files: Files = {}
    for path in WORKFLOWS:
        if not (root / path).is_file():
            continue

        def longer(found: re.Match[str]) -> str:
            names = [one.strip() for one in found[2].split(",")]
            at = names.index(wanted.after) + 1 if wanted.after in names else 0
            return found[1] + ", ".join([*names[:at], wanted.name, *names[at:]]) + found[3]

        files[path] = _OPTIONS.sub(longer, (root / path).read_text()).encode()
    return files
