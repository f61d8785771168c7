"""What is said of a thing: facts with the place each comes from, and what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from release.values.locations import Place, line_of
from release.values.tree import Snapshot


@dataclass(frozen=True)
class Fact:
    """One thing that holds; ``where`` is a file and line, a commit or an object of the cluster."""

    what: str
    value: str
    where: str = ""


@dataclass
class Part:
    """Facts about one side of the thing."""

    title: str
    facts: list[Fact] = field(default_factory=list)

    def add(self, what: str, value: str, where: object = "") -> None:
        """Take a fact in."""
        self.facts.append(Fact(what, value, str(where)))


@dataclass(frozen=True)
class Mention:
    """A line of the repository that speaks of the thing."""

    place: Place
    text: str


@dataclass
class Description:
    """All that is known of one thing, and by name what is not."""

    kind: str
    name: str
    parts: list[Part] = field(default_factory=list)
    mentions: Sequence[Mention] = ()
    gaps: list[str] = field(default_factory=list)

    def part(self, title: str) -> Part:
        """A further part, empty."""
        made = Part(title)
        self.parts.append(made)
        return made

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "name": self.name,
            "parts": [
                {"title": part.title, "facts": [vars(fact) for fact in part.facts]}
                for part in self.parts
            ],
            "mentions": [
                {"file": one.place.file, "line": one.place.line, "text": one.text}
                for one in self.mentions
            ],
            "gaps": self.gaps,
        }


def place_in(at: Snapshot, file: str, path: Sequence[str]) -> Place:
    """Where a key stands in a file of a commit; the file alone where it has no such key."""
    line = line_of((at.read(file) or b"").decode(errors="replace"), path)
    return Place(file, line or 0)
