"""After a rollback without Git: Git gets what was restored, and Argo CD follows it again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from release.changes.rollback import Rollback
from release.changes.transaction import Plan
from release.cluster import offline_mark
from release.cluster.client import REFRESH, Cluster
from release.cluster.offline_mark import MARK, SKIP, Mark
from release.errors import ConflictError, NotFoundError
from release.git.commit_tree import CommitTree
from release.records import deployments


@dataclass
class Reconcile:
    """Write to Git what an offline rollback has restored, unless Git has moved on since."""

    mark: Mark
    rollback: Rollback

    def __call__(self, at: CommitTree) -> Plan:
        """Raises ConflictError when the environment's files are neither of before nor of after."""
        environment = self.rollback.environment
        then = [self.mark.commit, *self.mark.replaces]
        known = [commit for commit in then if at.git.resolve(commit) is not None]
        if self.mark.commit not in known:
            raise NotFoundError(
                f"The manifest repository has no commit {self.mark.commit[:12]}, which "
                f"{environment} was restored to.",
                fix="is this its repository? `release reconcile --discard` follows Git instead",
            )
        now = deployments.files_at(at, environment, self.mark.services)
        if now not in [
            deployments.files_at(CommitTree(at.git, commit), environment, self.mark.services)
            for commit in known
        ]:
            raise ConflictError(
                f"{environment} was changed in Git since it was {self.mark}.",
                fix="`release reconcile --discard` to have what Git says, or `release rollback "
                f"--to {self.mark.commit[:12]}` and reconcile then to keep what was restored",
            )
        return self.rollback(at)


def marked(cluster: Cluster, environment: str) -> dict[str, Mark]:
    """The marks in an environment, by release."""
    found = {r: offline_mark.read(app) for r, app in cluster.applications(environment).items()}
    return {release: mark for release, mark in found.items() if mark is not None}


def let_go(cluster: Cluster, environment: str, releases: Sequence[str]) -> None:
    """Have Argo CD follow Git again, from its newest commit: nothing it was doing goes on."""
    for release in releases:
        with contextlib.suppress(NotFoundError):  # the row may be gone from the ApplicationSet
            cluster.patch_application(
                f"{environment}-{release}",
                {
                    "metadata": {"annotations": {SKIP: None, MARK: None, REFRESH: "normal"}},
                    "operation": None,
                },
            )
