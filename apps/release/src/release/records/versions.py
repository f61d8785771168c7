"""Versions of this repository: tags on main and the sections of CHANGELOG.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Literal

from release.errors import BadReferenceError, BadValuesError, ConflictError
from release.git.program import Git

CHANGELOG = "CHANGELOG.md"
Part = Literal["major", "minor", "patch"]
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_UNRELEASED = re.compile(r"^## Unreleased[ \t]*\n(.*?)(?=^## |\Z)", re.M | re.S)


@dataclass(frozen=True, order=True)
class Version:
    """A semantic version without a pre-release part."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """The name of its tag."""
        return f"v{self}"

    def following(self, part: Part) -> Version:
        """The next version: smaller parts begin again at 0."""
        if part == "major":
            return Version(self.major + 1, 0, 0)
        if part == "minor":
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + 1)


def read(text: str) -> Version:
    """A version such as ``1.4.0``, with or without the tag's v.

    Raises BadReferenceError for anything else.
    """
    found = _VERSION.fullmatch(text.removeprefix("v"))
    if not found:
        raise BadReferenceError(
            f"{text!r} is no semantic version.", fix="write three numbers, like 1.4.0"
        )
    return Version(*map(int, found.groups()))


def latest(git: Git, commit: str = "HEAD") -> Version | None:
    """The highest version whose tag is an ancestor of a commit; None before the first one."""
    names = git.text("tag", "--merged", commit, "--list", "v*").split()
    found = [read(name) for name in names if _VERSION.fullmatch(name.removeprefix("v"))]
    return max(found, default=None)


def described(git: Git) -> str:
    """The version of the commit at hand, like ``1.4.0`` or ``1.4.0+12.g1234567``."""
    version = latest(git)
    since = [f"{version.tag}..HEAD"] if version else ["HEAD"]
    count = git.text("rev-list", "--count", *since).strip()
    short = git.text("rev-parse", "--short", "HEAD").strip()
    return f"{version or Version(0, 0, 0)}" + ("" if count == "0" else f"+{count}.g{short}")


def released(changelog: str, version: Version, day: date) -> str:
    """CHANGELOG.md with what is unreleased under a version of its own.

    Raises BadValuesError where nothing is unreleased, ConflictError where the version is there.
    """
    if re.search(rf"^## {re.escape(str(version))}\b", changelog, re.M):
        raise ConflictError(f"{CHANGELOG} has a section {version} already.")
    found = _UNRELEASED.search(changelog)
    if not found or not found[1].strip():
        raise BadValuesError(
            f"{CHANGELOG} says nothing under Unreleased, so nobody would know what {version} is.",
            fix="write there what has changed for those who use it",
        )
    heading = f"## Unreleased\n\n## {version} ({day.isoformat()})\n"
    return changelog[: found.start()] + heading + changelog[found.start(1) :]
