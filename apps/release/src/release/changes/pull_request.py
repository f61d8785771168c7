"""A promotion as a pull request: the commit on a branch of its own, with what it would change."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from release.changes import transaction
from release.changes.transaction import Plan, Planner, Row
from release.errors import NotFoundError, ReleaseError
from release.git import message as msg
from release.git.ancestry import Sources
from release.git.commit_tree import CommitTree
from release.git.repository import ManifestRepo
from release.render import diff
from release.values import tree

# Subjects of commits listed per release.
LISTED = 30


@dataclass(frozen=True)
class Proposal:
    """A branch with the planned commit; ``commit`` is None when there is nothing to change."""

    plan: Plan
    base: str
    branch: str
    commit: str | None


def propose(repo: ManifestRepo, planner: Planner, branch: str, *, sign: bool = False) -> Proposal:
    """Commit a plan on a branch of the remote, which is made or moved forward, never by force.

    Moving it forward where it stands elsewhere takes a commit with two parents: the newest
    main, whose content it has, and the branch as it was.

    A lost race is run again, like any other push.

    Raises ConflictError when it was lost too often or the branch is protected, UnreachableError
    when the remote is gone.
    """
    if repo.remote is None:
        raise ReleaseError("A pull request needs a remote.", fix="push directly, without it")
    return transaction.persistently(lambda _: _propose(repo, planner, branch, sign=sign))


def _propose(repo: ManifestRepo, planner: Planner, branch: str, *, sign: bool) -> Proposal:
    base = repo.fetch()
    at = repo.tree(base)
    plan = planner(at)
    if not any(at.read(path) != content for path, content in plan.edits.items()):
        return Proposal(plan, base, branch, None)
    beside = ManifestRepo(repo.git, repo.remote, branch, repo.name)
    old: str | None = None
    with contextlib.suppress(NotFoundError):
        old = beside.fetch()
    stale = old is not None and not repo.git.is_ancestor(old, base)
    commit = repo.commit(
        base, plan.edits, plan.message.text(), sign=sign, also=[old] if old and stale else []
    )
    if old and _same(repo, old, commit, base):
        return Proposal(plan, base, branch, old)
    beside.push(old, commit)
    return Proposal(plan, base, branch, commit)


def body(
    repo: ManifestRepo, proposal: Proposal, source_env: str, target_env: str, sources: Sources
) -> str:
    """The pull request's text, at most as long as the host takes."""
    assert proposal.commit is not None
    at = CommitTree(repo.git, proposal.base)
    parts = [
        f"Promotes {source_env} to {target_env}.",
        _table(proposal.plan.rows),
        _changes(sources, at, proposal.plan.rows, target_env, source_env),
        _drift(repo, at, source_env, target_env),
        *(f"> {note}" for note in proposal.plan.notes),
    ]
    text = "\n\n".join(part for part in parts if part)
    trailers = "\n".join(f"{key}: {value}" for key, value in proposal.plan.message.trailers)
    room = diff.COMMENT_LIMIT - len(text) - len(trailers) - 100
    try:
        found = diff.compare(repo.git, proposal.base, proposal.commit, [target_env])
        rendered = diff.markdown(found, "What it changes in the cluster", max(room, 2_000))
    except ReleaseError as error:
        rendered = f"What it changes in the cluster could not be rendered: {error.message}"
    complete = f"{text[: diff.COMMENT_LIMIT // 2]}\n\n{rendered}\n\n{trailers}"
    return complete[: diff.COMMENT_LIMIT]


def _table(rows: Sequence[Row]) -> str:
    lines = ["| release | what | from | to |", "|---|---|---|---|"]
    lines += [f"| {r.release} | {r.kind} | `{r.old or '-'}` | `{r.new or '-'}` |" for r in rows]
    return "\n".join(lines)


def _changes(
    sources: Sources, at: CommitTree, rows: Sequence[Row], target: str, source: str
) -> str:
    """The source commits between what runs in the target and what comes."""
    lines_of_builds = []
    for row in rows:
        if row.kind != "image":
            continue
        old = tree.read_image(at, target, row.release).revision
        new = tree.read_image(at, source, row.release).revision
        git = sources.with_both(old, new) if old else None
        if git is None:
            lines_of_builds.append(f"**{row.release}**: up to {new[:12]}")
            continue
        log = git.text(
            "log", "--first-parent", f"--max-count={LISTED + 1}", "--format=- %h %s",
            "--invert-grep", f"--grep=^{msg.OPERATION}:", f"{old}..{new}",
        ).splitlines()  # fmt: skip
        more = ["- …"] if len(log) > LISTED else []
        lines = "\n".join([*log[:LISTED], *more])
        lines_of_builds.append(f"**{row.release}** {old[:12]}..{new[:12]}\n{lines}")
    return "\n\n".join(dict.fromkeys(lines_of_builds))


def _drift(repo: ManifestRepo, at: CommitTree, source: str, target: str) -> str:
    """Settings that one of the two environments has and the other has not, to be thought of."""
    lines = []
    for release in tree.image_releases(at, target):
        ours = at.blob(f"values/{target}/{release}.yaml")
        theirs = at.blob(f"values/{source}/{release}.yaml")
        last = repo.git.text(
            "log", "-1", "--format=%h %s", at.commit, "--", f"values/{source}/{release}.yaml"
        )
        since = repo.git.text(
            "log", "-1", "--format=%ct", at.commit, "--", f"values/{source}/{release}.yaml"
        )
        own = repo.git.text(
            "log", "-1", "--format=%ct", at.commit, "--", f"values/{target}/{release}.yaml"
        )
        if ours != theirs and since and own and int(since) > int(own):
            lines.append(f"- {release}: {source} was configured anew since ({last})")
    if not lines:
        return ""
    return f"Drift: {target} does not get these settings by this promotion.\n" + "\n".join(lines)


def _same(repo: ManifestRepo, old: str, new: str, base: str) -> bool:
    """Whether the branch has this very content on top of this very main already."""
    trees = [repo.git.text("rev-parse", f"{commit}^{{tree}}") for commit in (old, new)]
    return trees[0] == trees[1] and repo.git.is_ancestor(base, old)
