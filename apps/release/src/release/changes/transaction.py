"""One operation, one commit: plan on the newest state, commit, push, and again if the race is lost.

A planner is a pure function from a commit's files to the edits it wants. It is called anew for
every attempt, so holds, windows and superseded builds are checked against the very commit that
the push builds upon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import stamina

from release.errors import ConflictError, ReleaseError
from release.git.commit_tree import CommitTree
from release.git.message import Message
from release.git.repository import ManifestRepo, PushRaceError


@dataclass(frozen=True)
class Row:
    """One changed scalar group, for the table and the trailers."""

    release: str
    kind: str
    old: str
    new: str


@dataclass(frozen=True)
class Plan:
    """What an operation wants to do to one commit; without ``edits`` there is nothing to do."""

    edits: Mapping[str, bytes | None]
    message: Message
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences a person should read: what was skipped, and why."""


Planner = Callable[[CommitTree], Plan]
Done = TypeVar("Done")


@dataclass(frozen=True)
class Outcome:
    """What became of it: ``commit`` is None when nothing changed or in a dry run."""

    base: str
    plan: Plan
    commit: str | None
    attempts: int


@dataclass(frozen=True)
class Persistence:
    """How long a lost push race is run again; seconds."""

    timeout: float = 120.0
    attempts: int = 100


class Host(Protocol):
    """A host that makes commits itself, and signs them."""

    def commit(
        self, branch: str, parent: str, edits: Mapping[str, bytes | None], message: str
    ) -> str:
        """Commit on a branch that still stands at ``parent``; the commit's id."""
        ...


def apply(
    repo: ManifestRepo,
    planner: Planner,
    *,
    dry_run: bool = False,
    sign: bool = False,
    host: Host | None = None,
    persistence: Persistence | None = None,
) -> Outcome:
    """Plan, commit and push; a lost race is refetched, planned and pushed again, with jitter.

    With a ``host`` the commit is made by its API instead of a push.

    Raises ConflictError when it was lost too often, and whatever the planner raises.
    """

    def once(attempt: int) -> Outcome:
        base = repo.fetch()
        tree = repo.tree(base)
        plan = planner(tree)
        edits = {
            path: content for path, content in plan.edits.items() if tree.read(path) != content
        }
        if not edits or dry_run:
            return Outcome(base, plan, None, attempt)
        if host is not None:
            commit = _by_host(host, repo, base, edits, plan)
        else:
            commit = repo.commit(base, edits, plan.message.text(), sign=sign)
            repo.push(base, commit)
        return Outcome(base, plan, commit, attempt)

    return persistently(once, persistence)


def persistently(once: Callable[[int], Done], persistence: Persistence | None = None) -> Done:
    """Do it, given the number of the attempt, again for every race to push that is lost.

    Raises ConflictError when it was lost too often.
    """
    patience = persistence or Persistence()
    try:
        for attempt in stamina.retry_context(
            on=PushRaceError,
            attempts=patience.attempts,
            timeout=patience.timeout,
            wait_initial=0.05,
            wait_max=2.0,
            wait_jitter=0.5,
        ):
            with attempt:
                return once(attempt.num)
    except PushRaceError as error:
        raise ConflictError(
            f"{error.message} Gave up after {patience.attempts} attempts or "
            f"{patience.timeout:g} seconds; nothing was changed.",
            fix="run the command again",
        ) from error
    raise AssertionError("unreachable")  # pragma: no cover


def _by_host(
    host: Host, repo: ManifestRepo, base: str, edits: Mapping[str, bytes | None], plan: Plan
) -> str:
    """As with a push, where the branch stands afterwards tells what a refusal meant."""
    try:
        commit = host.commit(repo.branch, base, edits, plan.message.text())
    except ReleaseError as error:
        if repo.fetch() != base:
            raise PushRaceError(error.message) from error
        raise
    repo.fetch()
    return commit
