"""`release history` and `release metrics`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from release.commands import output
from release.commands.frame import now, opened
from release.commands.options import (
    ClusterOptions,
    EnvironmentsOption,
    EnvOption,
    JsonOption,
    ManifestOptions,
    ReadsOption,
    SourcedManifestOptions,
    expanded,
)
from release.records import history, verdicts
from release.status import table
from release.values import tree


@expanded
def history_command(
    *,
    env: EnvOption,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Newest so many.")] = 20,
    applied: Annotated[
        bool,
        typer.Option("--applied", help="Ask the cluster too when Argo CD applied each of them."),
    ] = False,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """The deployment log of an environment, out of Git, newest first.

    With --applied also when Argo CD applied it, as far back as it remembers (ten syncs).
    """
    with opened(json_output, manifests) as repo:
        at = repo.tree(repo.fetch())
        tree.require_environment(at, env)
        found = history.history(repo.git, at.commit, env, verdicts.read(repo), limit)
        if applied:
            cluster = in_cluster.client()
            found = history.applied(repo.git, at.commit, found, cluster.applications(env))
        rows = [
            (
                one.commit[:12],
                moment(one.when),
                *([moment(one.applied_at)] if applied else []),
                one.operation,
                one.services or "-",
                ", ".join(revision[:7] for revision in one.revisions) or "-",
                one.verdict or "-",
                one.by,
                one.reason or (f"restores {one.restores[:12]}" if one.restores else ""),
            )
            for one in found
        ]
        columns = (
            "commit", "when (UTC)", *(["applied (UTC)"] if applied else []), "what", "services",
            "source", "verdict", "by", "why",
        )  # fmt: skip
        content = {"environment": env, "deployments": [vars(one) for one in found]}
        output.printed(json_output, content, output.table(columns, rows))


def moment(seconds: float | None) -> str:
    """A time for tables; `-` for none."""
    if seconds is None:
        return "-"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


@expanded
def metrics_command(
    *,
    env: EnvironmentsOption = None,
    days: Annotated[float, typer.Option("--days", min=0.01, help="Over the last so many.")] = 30.0,
    manifests: SourcedManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """The four DORA figures per environment: frequency, lead time, failures, time to restore."""
    with opened(json_output, manifests) as repo, manifests.sources(repo) as known:
        at = repo.tree(repo.fetch())
        log = verdicts.read(repo)
        made = []
        for name in env or tree.environments(at):
            tree.require_environment(at, name)
            entries = history.history(repo.git, at.commit, name, log)
            times = history.commit_times(entries, known)
            made.append(history.metrics(name, entries, times, now().timestamp(), days))
        rows = [
            (
                one.environment,
                str(one.deployments),
                f"{one.per_day:.2f}",
                table.age(one.lead_seconds) if one.lead_seconds is not None else "-",
                f"{one.failure_rate:.0%}" if one.failure_rate is not None else "-",
                table.age(one.restore_seconds) if one.restore_seconds is not None else "-",
            )
            for one in made
        ]
        columns = ("env", "deployments", "per day", "lead time", "failures", "time to restore")
        content = {"days": days, "environments": [vars(one) for one in made]}
        output.printed(json_output, content, output.table(columns, rows))
