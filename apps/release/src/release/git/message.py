"""The commit message of an operation: a subject for people, trailers for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

OPERATION = "Release-Operation"
ENVIRONMENT = "Release-Environment"
SERVICES = "Release-Services"
REVISION = "Source-Revision"
IMAGE = "Release-Image"
MODEL = "Release-Model"
RESTORES = "Release-Restores"
REPLACES = "Release-Replaces"
PROMOTED_FROM = "Release-Promoted-From"
REASON = "Release-Reason"


@dataclass(frozen=True)
class Message:
    """What a commit says: ``trailers`` are (key, value) pairs, keys may repeat."""

    subject: str
    trailers: Sequence[tuple[str, str]]
    body: str = ""

    def text(self) -> str:
        """The message as git stores it."""
        paragraphs = [self.subject]
        if self.body:
            paragraphs.append(self.body)
        paragraphs.append("\n".join(f"{key}: {_one_line(value)}" for key, value in self.trailers))
        return "\n\n".join(paragraphs) + "\n"


@dataclass(frozen=True)
class Logged:
    """A commit read back from the log."""

    commit: str
    author: str
    when: int
    """Seconds since the epoch (the committer's clock)."""
    subject: str
    trailers: dict[str, list[str]] = field(default_factory=dict)

    def first(self, key: str) -> str:
        """The trailer's first value, or an empty string."""
        return self.trailers.get(key, [""])[0]


LOG_FORMAT = "%H%x1f%an%x1f%ct%x1f%s%x1f%(trailers:only,unfold)%x1e"


def parse_log(text: str) -> list[Logged]:
    """The output of ``git log --format=LOG_FORMAT``, newest first."""
    commits = []
    for record in text.split("\x1e"):
        if not record.strip():
            continue
        # Not strip(): to Python the separators are white space too.
        commit, author, when, subject, trailers = record.lstrip("\n").split("\x1f")
        parsed: dict[str, list[str]] = {}
        for line in trailers.splitlines():
            key, _, value = line.partition(": ")
            if value:
                parsed.setdefault(key, []).append(value)
        commits.append(Logged(commit, author, int(when), subject, parsed))
    return commits


def names(items: Iterable[str]) -> str:
    """``proxy, worker``."""
    return ", ".join(items)


def _one_line(value: str) -> str:
    return " ".join(value.split())
