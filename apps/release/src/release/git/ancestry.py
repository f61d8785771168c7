"""Which of two builds is newer: by the history of the source they were built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from release.errors import SupersededError
from release.git.program import Git


class Order(Enum):
    """How a new source revision stands to the one that is deployed."""

    NEWER = "newer"
    SAME = "same"
    OLDER = "older"
    DIVERGED = "diverged"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sources:
    """Clones in which source revisions may be found, asked one after another."""

    clones: Sequence[Git]

    def order(self, deployed: str, new: str) -> Order:
        """Where ``new`` stands in relation to ``deployed``, both full commit ids."""
        if deployed == new:
            return Order.SAME
        git = self.with_both(deployed, new)
        if git is None:
            return Order.UNKNOWN
        if git.is_ancestor(deployed, new):
            return Order.NEWER
        return Order.OLDER if git.is_ancestor(new, deployed) else Order.DIVERGED

    def with_both(self, one: str, other: str) -> Git | None:
        """The first clone that has both commits."""
        return next((git for git in self.clones if git.resolve(one) and git.resolve(other)), None)

    def on_branch(self, revision: str, heads: Sequence[str]) -> bool | None:
        """Whether a revision is in the history of any of the heads; None when it is nowhere."""
        known = False
        for git in self.clones:
            if git.resolve(revision) is None:
                continue
            for head in heads:
                commit = git.resolve(head)
                if commit is not None:
                    known = True
                    if git.is_ancestor(revision, commit):
                        return True
        return False if known else None


def refuse_older(
    sources: Sources, what: str, deployed: str, new: str, *, allow_unrelated: bool = False
) -> None:
    """Refuse to replace a build by one that is not its descendant.

    Raises SupersededError when ``new`` is older; and when the two have diverged or one is
    unknown here, unless ``allow_unrelated``: what cannot be compared is not overwritten.
    """
    if not deployed:
        return
    order = sources.order(deployed, new)
    if order is Order.OLDER:
        raise SupersededError(
            f"{what} is at {deployed[:12]}, which is newer than {new[:12]}.",
            fix="nothing to do; to go back on purpose, use `release rollback`",
        )
    if order is Order.DIVERGED and not allow_unrelated:
        raise SupersededError(
            f"{what} is at {deployed[:12]}, and {new[:12]} does not descend from it.",
            fix="build from main; if main was rewritten, pass --allow-unrelated once",
        )
    if order is Order.UNKNOWN and not allow_unrelated:
        raise SupersededError(
            f"{what} is at {deployed[:12]}; its order to {new[:12]} is unknown, because no clone "
            "here has both commits.",
            fix="run in a clone of the source with its full history, or name one with --source",
        )
