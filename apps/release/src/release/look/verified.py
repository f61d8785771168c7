"""The manifests of a deployment that was verified, where Git has the same now."""

from __future__ import annotations

from release import layout, snapshots
from release.cluster import Cluster
from release.errors import ReleaseError
from release.git import CommitTree, Git
from release.snapshots import Manifests


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
