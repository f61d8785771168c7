"""The program git: its commands in one repository, and what of their failures may pass."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from release.errors import ReleaseError, UnreachableError

# What a remote that could not be reached says, as opposed to one that refused.
_UNREACHABLE = re.compile(
    r"could not resolve|unable to access|could not read from remote|connection (?:refused|timed out"
    r"|reset|closed)|timed out|early eof|hung up|unable to connect|network is unreachable"
    r"|does not appear to be a git repository|rpc failed",
    re.IGNORECASE,
)


class GitError(ReleaseError):
    """A git command failed."""


@dataclass(frozen=True)
class Git:
    """Git commands in one repository."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0

    def run(
        self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> bytes:
        """Standard output of ``git arguments``.

        Raises UnreachableError when a remote does not answer (in ``timeout`` seconds),
        else GitError with what git said.
        """
        code, out, err = self.attempt(*arguments, stdin=stdin, env=env)
        if code == 0:
            return out
        said = err.strip() or out.decode(errors="replace").strip()
        message = f"git {arguments[0]} failed: {said}"
        if arguments[0] in ("fetch", "push", "clone", "ls-remote") and _UNREACHABLE.search(said):
            raise UnreachableError(message, fix="check the remote's address, network and access")
        raise GitError(message)

    def attempt(
        self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, str]:
        """Exit code, standard output and standard error of ``git arguments``."""
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.folder,
                input=stdin if stdin is not None else b"",
                capture_output=True,
                env={
                    **os.environ,
                    "LC_ALL": "C",
                    "GIT_TERMINAL_PROMPT": "0",
                    **self.environment,
                    **(env or {}),
                },
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(
                f"git {arguments[0]} did not finish in {self.timeout:g} seconds.",
                fix="check the remote, or raise --git-timeout",
            ) from error
        except FileNotFoundError as error:
            raise ReleaseError("git is not installed.", fix="install git") from error
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")

    def text(self, *arguments: str) -> str:
        """Standard output as text without surrounding space."""
        return self.run(*arguments).decode(errors="surrogateescape").strip()

    def resolve(self, commit: str) -> str | None:
        """The full id of a commit; None when this repository has no such commit."""
        code, out, _ = self.attempt("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
        return out.decode().strip() if code == 0 else None

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether ``older`` is in the history of ``newer``; both must be here."""
        code, _, err = self.attempt("merge-base", "--is-ancestor", older, newer)
        if code > 1:
            raise GitError(f"git merge-base failed: {err.strip()}")
        return code == 0
