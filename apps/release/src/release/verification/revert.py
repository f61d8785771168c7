"""Take back one deployment that has failed, unless anybody has touched the environment since."""

from __future__ import annotations

from dataclasses import dataclass

from release.changes.rollback import Rollback
from release.changes.transaction import Plan
from release.errors import ConflictError
from release.git import message as msg
from release.git.commit_tree import CommitTree
from release.records import deployments
from release.values import holds
from release.verification.target import Target


@dataclass
class Revert:
    """A plan that restores what was before ``target``."""

    target: Target
    rollback: Rollback

    def __call__(self, at: CommitTree) -> Plan:
        """Raises ConflictError when it is not ours to revert, or not this state any more, and
        HeldError when a hold says that nothing may change."""
        logged = deployments.logged(at.git, self.target.commit)
        if logged.first(msg.OPERATION) not in ("image set", "model set", "model remove", "promote"):
            raise ConflictError(
                f"{self.target.commit[:12]} is no deployment that `release` made: left alone.",
                fix="a person decides: `release rollback`",
            )
        now = deployments.files_at(at, self.target.environment, self.target.services)
        if now != self.target.files:
            raise ConflictError(
                f"{self.target.environment} was changed since {self.target.commit[:12]}: "
                "left alone."
            )
        environment = self.target.environment
        held = holds.read(at, environment)
        for release in self.rollback.services:
            if hold := holds.covering(held, release, self.rollback.now):
                raise holds.refuse(environment, release, hold)
        return self.rollback(at)
