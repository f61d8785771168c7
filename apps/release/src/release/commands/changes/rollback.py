"""`release rollback`, and `release reconcile` after one without Git."""

from __future__ import annotations

from typing import Annotated

import typer

from release.changes.rollback import Rollback
from release.commands import output, verdict
from release.commands.frame import now, opened, person, reported
from release.commands.options import (
    ClusterOptions,
    DryRunOption,
    EnvOption,
    JsonOption,
    ManifestOptions,
    OutputOption,
    ServicesOption,
    SigningOptions,
    TimeoutOption,
    expanded,
)
from release.errors import UnreachableError
from release.git.commit_tree import CommitTree
from release.offline.reconcile import Reconcile, let_go, marked
from release.offline.rollback import OfflineRollback
from release.records import deployments, verdicts
from release.verification.target import target_of


@expanded
def rollback(
    *,
    env: EnvOption,
    service: ServicesOption = None,
    to: Annotated[str | None, typer.Option("--to", help="Commit whose state is restored.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the hold.")] = "",
    without_git: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Git is down: apply the last verified manifests, kept in the cluster, straight "
            "to it, and have Argo CD wait until `release reconcile`.",
        ),
    ] = False,
    verify_after: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Wait for the verdict on what was restored, and end operations that are stuck.",
        ),
    ] = False,
    timeout: TimeoutOption = 300.0,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    signing: SigningOptions,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Restore an earlier state of an environment in one commit, and put a hold on it.

    Images, models and configuration go back together, to the newest earlier state that has a
    verdict (any earlier one where no verdicts are kept). Charts and values/services stay: all
    environments share them.
    """
    if without_git:
        with reported(json_output):
            cluster = in_cluster.client()
            at = now().isoformat(timespec="seconds")
            going = OfflineRollback(cluster, env, person(), at, reason, service or (), to, timeout)
            done = going.run(dry_run=dry_run)
            with output.before(json_output, output.offline(env, done, dry_run)):
                if verify_after and not dry_run:
                    found = going.wait(going.target(done.mark.commit), done.releases)
                    verdict.shown(json_output, found)
        return
    with opened(json_output, manifests) as repo:
        try:
            known = verdicts.read(repo)
        except UnreachableError as error:
            error.fix += "; or restore what the cluster keeps with --offline"
            raise
        planner = Rollback(
            env,
            person(repo),
            reason,
            now(),
            services=service or (),
            to=to,
            verified=lambda state: known.on_state(
                env, deployments.files_at(CommitTree(repo.git, state.logged.commit), env)
            ),
            any_verdicts=any(entry.verdict == "deployed" for entry in known.of(env)),
        )
        result = signing.apply(repo, planner, dry_run=dry_run)
        output.written(output_file, {"commit": result.commit or ""})
        with output.before(json_output, output.outcome(result, dry_run)):
            if verify_after and not dry_run:
                cluster = in_cluster.client()
                target = target_of(repo, env, result.commit)
                found = verdict.deployed(repo, cluster, target, timeout, preempt=True)
                verdict.shown(json_output, found)


@expanded
def reconcile(
    *,
    env: EnvOption,
    discard: Annotated[
        bool, typer.Option("--discard", help="Follow Git as it is instead of writing to it.")
    ] = False,
    verify_after: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Wait for the verdict.")
    ] = True,
    timeout: TimeoutOption = 300.0,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    signing: SigningOptions,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write to Git what `rollback --offline` restored, and have Argo CD follow Git again.

    The commit is a rollback's, with its hold. Only then Argo CD is let go on; it is never at a
    state that nobody chose.
    """
    with opened(json_output, manifests) as repo:
        cluster = in_cluster.client()
        marks = marked(cluster, env)
        commits: list[str] = []
        for mark in () if discard else dict.fromkeys(marks.values()):
            planner = Reconcile(
                mark,
                Rollback(
                    env, mark.by, mark.reason or "rolled back while Git was away", now(),
                    services=mark.services, to=mark.commit,
                ),
            )  # fmt: skip
            result = signing.apply(repo, planner, dry_run=dry_run)
            commits += [result.commit] if result.commit else []
        target = target_of(repo, env, None)
        if not dry_run:
            let_go(cluster, env, list(marks))
        content = {
            "environment": env,
            "dry_run": dry_run,
            "releases": {release: str(mark) for release, mark in marks.items()},
            "commits": commits,
        }
        lines = [f"{release}: {mark}" for release, mark in marks.items()]
        ended = (
            f"Argo CD follows Git again, at {target.commit[:12]}."
            if marks
            else f"Nothing in {env} was rolled back offline."
        )
        lines.append("Dry run: nothing was changed." if dry_run else ended)
        with output.before(json_output, output.Said(content, lines)):
            if marks and verify_after and not dry_run:
                found = verdict.deployed(repo, cluster, target, timeout)
                verdict.shown(json_output, found)
