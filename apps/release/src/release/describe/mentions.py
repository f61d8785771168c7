"""Every line of a commit that speaks of a name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from release.describe.facts import Mention
from release.git.program import Git, GitError
from release.values.locations import Place

FIRST = ("values", "argocd", "charts", ".github")
"""Folders whose lines come before all others: they say what is deployed."""
LAST = ("apps", "docs", "tests")
LONGEST = 160
"""Characters of a line that are kept."""


def find(git: Git, commit: str, names: Iterable[str]) -> list[Mention]:
    """The lines in which one of the names stands as a word of its own, what is
    deployed first.

    A dash or an underscore belongs to a word: `iris` is not found in `iris-2`. Files that git
    takes for binary are passed over.
    """
    words = "|".join(re.escape(name).replace("\\-", "-") for name in dict.fromkeys(names))
    pattern = f"(^|[^A-Za-z0-9_-])({words})($|[^A-Za-z0-9_-])"
    code, out, err = git.attempt(
        "grep", "--no-color", "--full-name", "-I", "-n", "-z", "-E", "-e", pattern, commit
    )
    if code > 1:
        raise GitError(f"git grep failed: {err.strip()}")
    lines = out.decode(errors="replace").split("\n")
    return sorted((_mention(line, commit) for line in lines if line), key=_order)


def _mention(line: str, commit: str) -> Mention:
    file, number, text = line.split("\0", 2)
    return Mention(Place(file.removeprefix(f"{commit}:"), int(number)), text.strip()[:LONGEST])


def _order(mention: Mention) -> tuple[int, str, int]:
    folder = mention.place.file.split("/")[0]
    rank = FIRST.index(folder) if folder in FIRST else len(FIRST)
    rank += LAST.index(folder) + 1 if folder in LAST else 0
    return rank, mention.place.file, mention.place.line
