"""Holds on an environment, begun and ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from release.changes.messages import hold_message
from release.changes.transaction import Plan
from release.errors import ConflictError
from release.git.commit_tree import CommitTree
from release.values import holds, tree
from release.values.holds import Hold


@dataclass(frozen=True)
class SetHold:
    """Add a hold, in place of the same owner's hold on the same services."""

    environment: str
    hold: Hold

    def __call__(self, at: CommitTree) -> Plan:
        """Raises NotFoundError for an unknown environment or release."""
        tree.require_environment(at, self.environment)
        _check_releases(at, self.environment, self.hold.services)
        kept = [
            other
            for other in holds.read(at, self.environment)
            if (other.services, other.owner) != (self.hold.services, self.hold.owner)
        ]
        return Plan(
            {tree.hold_file(self.environment): holds.write([*kept, self.hold])},
            hold_message("hold", self.environment, self.hold.services, self.hold.reason),
            notes=[str(self.hold)],
        )


@dataclass(frozen=True)
class Unhold:
    """End an environment's holds: all of them, or those on the named releases."""

    environment: str
    services: Sequence[str] = ()

    def __call__(self, at: CommitTree) -> Plan:
        """A hold on more releases than named stays on the rest; one on ``*`` ends only as one.

        To end all of them the file is not read: it may be what cannot be read.
        """
        tree.require_environment(at, self.environment)
        _check_releases(at, self.environment, self.services)
        kept: list[Hold] = []
        for hold in holds.read(at, self.environment) if self.services else ():
            if holds.EVERY in hold.services:
                raise ConflictError(
                    f"{self.environment} is held in all its releases: {hold}.",
                    fix=f"end it with `release unhold --env {self.environment}`",
                )
            rest = tuple(service for service in hold.services if service not in self.services)
            if rest:
                kept.append(replace(hold, services=rest))
        return Plan(
            {tree.hold_file(self.environment): holds.write(kept)},
            hold_message("unhold", self.environment, self.services or (holds.EVERY,), ""),
        )


def _check_releases(at: CommitTree, environment: str, services: Iterable[str]) -> None:
    known = tree.present(at, environment)
    for service in services:
        if service != holds.EVERY and service not in known:
            raise tree.unknown_service(service, known, environment, "release")
