"""The deployment log and what it says of how well a team delivers: DORA's four figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from release.git import message as msg
from release.git.ancestry import Sources
from release.git.program import Git
from release.records import deployments, verdicts

DEPLOYING = ("image set", "model set", "model remove", "promote", "rollback")
_DAY = 86_400


@dataclass(frozen=True)
class Deployment:
    """One commit that changed what an environment runs. Times are seconds since the epoch."""

    environment: str
    commit: str
    when: int
    by: str
    operation: str
    services: str
    revisions: tuple[str, ...]
    images: tuple[str, ...]
    verdict: str
    verdict_at: int | None
    restores: str
    replaces: str
    reason: str
    applied_at: int | None = None
    """When Argo CD had applied it to the last of its releases, where the cluster was asked."""

    @property
    def deployed_at(self) -> int:
        """When it was known to run; when it was committed, where no verdict was kept."""
        return self.verdict_at or self.when


@dataclass(frozen=True)
class Metrics:
    """The four figures over a span of days; None where there is nothing to measure."""

    environment: str
    days: float
    deployments: int
    per_day: float
    lead_seconds: float | None
    """Median from a source commit to its deployment."""
    failure_rate: float | None
    """Share of deployments that failed their verdict or were rolled back."""
    restore_seconds: float | None
    """Median from a deployment that failed to the one that restored the environment."""


def history(
    git: Git, head: str, environment: str, log: verdicts.Log, limit: int = 0
) -> list[Deployment]:
    """The deployments of an environment, newest first; people's changes of values included."""
    by_commit: dict[str, verdicts.Verdict] = {entry.commit: entry for entry in log.of(environment)}
    found = []
    for entry in deployments.log(git, head, environment, limit=limit):
        verdict = by_commit.get(entry.commit)
        found.append(
            Deployment(
                environment,
                entry.commit,
                entry.when,
                entry.author,
                entry.first(msg.OPERATION) or "values",
                entry.first(msg.SERVICES),
                tuple(entry.trailers.get(msg.REVISION, ())),
                tuple(entry.trailers.get(msg.IMAGE, ())),
                verdict.verdict if verdict else "",
                int(verdict.time.timestamp()) if verdict else None,
                entry.first(msg.RESTORES),
                entry.first(msg.REPLACES),
                entry.first(msg.REASON),
            )
        )
    return found


def applied(
    git: Git,
    head: str,
    entries: Sequence[Deployment],
    applications: Mapping[str, Mapping[str, Any]],
) -> list[Deployment]:
    """The deployments, each with when Argo CD applied it, as far as its own history goes back."""
    age = {commit: index for index, commit in enumerate(git.text("rev-list", head).split())}
    return [replace(entry, applied_at=_applied_at(entry, age, applications)) for entry in entries]


def _applied_at(
    entry: Deployment, age: Mapping[str, int], applications: Mapping[str, Mapping[str, Any]]
) -> int | None:
    services = entry.services.split(", ") if entry.services else list(applications)
    times = [
        time
        for service in services
        if service in applications
        and (time := _first_sync(entry.commit, age, applications[service])) is not None
    ]
    return max(times, default=None)


def _first_sync(commit: str, age: Mapping[str, int], application: Mapping[str, Any]) -> int | None:
    """When the first sync with this commit in it ended; None where that is forgotten or to come."""
    past = application.get("status", {}).get("history") or []
    for index, sync in enumerate(past):
        revision = sync.get("revision", "")
        if age.get(revision, len(age)) > age[commit]:
            continue
        # Before the first that is remembered there may have been another with it.
        if index == 0 and sync.get("id") and revision != commit:
            return None
        return int(datetime.fromisoformat(sync["deployedAt"].replace("Z", "+00:00")).timestamp())
    return None


def metrics(
    environment: str,
    entries: Sequence[Deployment],
    commit_times: Mapping[str, Sequence[int]],
    now: float,
    days: float,
) -> Metrics:
    """The four figures of the last ``days``.

    ``entries`` are newest first; ``commit_times`` maps a deployment's commit to the times of the
    source commits that came with it.
    """
    recent = [e for e in entries if e.operation in DEPLOYING and e.when >= now - days * _DAY]
    forward = [e for e in recent if e.operation != "rollback"]
    lead = [
        max(0, entry.deployed_at - time)
        for entry in forward
        for time in commit_times.get(entry.commit, ())
    ]
    rolled_back = {e.replaces for e in entries if e.operation == "rollback"}
    bad = [e for e in forward if e.commit in rolled_back or e.verdict in ("failed", "timed out")]
    restored = []
    for entry in bad:
        later = [
            other
            for other in entries
            if other.operation in DEPLOYING
            and other.when >= entry.when
            and other.commit != entry.commit
            and (other.verdict == "deployed" or other.replaces == entry.commit)
        ]
        if later:
            mended = min(later, key=lambda other: other.deployed_at)
            restored.append(max(0, mended.deployed_at - entry.when))
    return Metrics(
        environment,
        days,
        len(recent),
        len(recent) / days,
        statistics.median(lead) if lead else None,
        len(bad) / len(forward) if forward else None,
        statistics.median(restored) if restored else None,
    )


def commit_times(entries: Sequence[Deployment], sources: Sources) -> dict[str, list[int]]:
    """When the source commits were made that each deployment brought along.

    Those between the revision before and its own; without merge commits and `release`'s own.
    """
    found: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        if entry.operation == "rollback" or not entry.revisions:
            continue
        before = next(
            (other.revisions[-1] for other in entries[index + 1 :] if other.revisions), None
        )
        new = entry.revisions[-1]
        for git in sources.clones:
            if git.resolve(new) is None:
                continue
            span = f"{before}..{new}" if before and git.resolve(before) else new
            limit = [] if ".." in span else ["--max-count=1"]
            times = git.text(
                "log", *limit, "--no-merges", "--format=%ct", "--invert-grep",
                f"--grep=^{msg.OPERATION}:", span,
            ).split()  # fmt: skip
            found[entry.commit] = [int(time) for time in times]
            break
    return found
