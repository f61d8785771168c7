"""The manifests of a deployment that was verified, where Git has the same now."""

from __future__ import annotations

from release.cluster import snapshots
from release.cluster.client import Cluster
from release.cluster.snapshots import Manifests
from release.errors import ReleaseError
from release.git.commit_tree import CommitTree
from release.git.program import Git
from release.values import layout


def manifests(cluster: Cluster, at: CommitTree, environment: str) -> Manifests:
    """What Argo CD had applied when this state of an environment was verified, by release.

    Empty where it never was, or where this identity may not read it.
    """
    try:
        kept = snapshots.kept(cluster, environment)
    except ReleaseError:
        return {}
    return next(
        (one.manifests for one in kept if _same(at.git, one.commit, at.commit, environment)), {}
    )


def _same(git: Git, one: str, other: str, environment: str) -> bool:
    """Whether two commits render the same."""
    paths = (*layout.SHARED, f"values/{environment}")
    return git.resolve(one) is not None and (
        git.attempt("diff", "--quiet", one, other, "--", *paths)[0] == 0
    )
