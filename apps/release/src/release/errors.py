"""Everything that can go wrong, one sentence each, with the exit code it ends in.

The codes are part of the command's contract (docs/release.md): scripts branch on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every `release` command."""

    OK = 0
    ERROR = 1
    CHANGED = 2
    """`diff` found differences. (Click ends with 2 as well when the command line is wrong.)"""
    SUPERSEDED = 3
    HELD = 4
    CONFLICT = 5
    FAILED = 6
    TIMED_OUT = 7
    NOT_FOUND = 8
    UNREACHABLE = 9


class ReleaseError(Exception):
    """A refusal or failure: what is wrong, where, and what to do about it."""

    exit = Exit.ERROR

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.done: Mapping[str, object] = {}
        """What the command had done by then, for its JSON."""

    def __str__(self) -> str:
        return f"{self.message} Fix: {self.fix}" if self.fix else self.message


class BadValuesError(ReleaseError):
    """A values file does not have the key, or not in a form that can be edited in place."""


class BadReferenceError(ReleaseError):
    """An image reference, digest, revision or version is not written as it must be."""


class SupersededError(ReleaseError):
    """The environment already runs something newer, or something that cannot be compared."""

    exit = Exit.SUPERSEDED


class HeldError(ReleaseError):
    """A hold, a calendar window or the soak time says: not now."""

    exit = Exit.HELD


class ConflictError(ReleaseError):
    """The repository moved in a way that makes this operation wrong, or moved too often."""

    exit = Exit.CONFLICT


class FailedError(ReleaseError):
    """The deployment failed or is not healthy."""

    exit = Exit.FAILED


class TimedOutError(ReleaseError):
    """The deadline passed before there was a verdict."""

    exit = Exit.TIMED_OUT


class NotFoundError(ReleaseError):
    """An environment, service, commit, image or file does not exist."""

    exit = Exit.NOT_FOUND


class UnreachableError(ReleaseError):
    """The Git remote, the registry or the cluster does not answer."""

    exit = Exit.UNREACHABLE
