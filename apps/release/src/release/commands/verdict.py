"""A verdict as several commands want it: waited for, kept, and perhaps reverted."""

from __future__ import annotations

from dataclasses import replace

from release.changes import transaction
from release.changes.rollback import Rollback
from release.checks import plan as check_plan
from release.checks.run import Checks
from release.checks.user_requests import Limit, UserRequests
from release.cluster import snapshots
from release.cluster.client import Cluster
from release.commands import output
from release.commands.frame import now, person
from release.diagnosis.releases import Finding
from release.errors import FailedError, ReleaseError, TimedOutError
from release.git import message as msg
from release.git.repository import ManifestRepo
from release.live import verified_manifests
from release.live.traffic import IN_CLUSTER, Prometheus
from release.records import deployments, verdicts
from release.status import table
from release.values import tree
from release.verification.revert import Revert
from release.verification.target import Target
from release.verification.watch import Watch


def user_requests(
    repo: ManifestRepo,
    cluster: Cluster,
    target: Target,
    limit: Limit | None = None,
    prometheus: str = IN_CLUSTER,
) -> UserRequests:
    """What counts the requests of users since a commit."""
    at = repo.tree(target.commit)
    called = check_plan.read(at, target.environment, target.services).addresses
    metrics = Prometheus(cluster, prometheus)
    return UserRequests(
        cluster,
        target.environment,
        called,
        float(repo.git.text("show", "--no-patch", "--format=%ct", target.commit)),
        limit or Limit(),
        metrics if called and metrics.found() else None,
    )


def shown(json_output: bool, found: list[Finding]) -> None:
    """Print what runs after a command; its JSON is the command's own."""
    if not json_output:
        output.printed(json_output, {}, table.findings(found))


def deployed(
    repo: ManifestRepo,
    cluster: Cluster,
    target: Target,
    timeout: float,
    *,
    poll: float = 1.0,
    run_cronjobs: bool = True,
    record: bool = True,
    preempt: bool = False,
    dry_run: bool = False,
    check: bool = True,
    gateway: str = "",
    requests: UserRequests | None = None,
) -> list[Finding]:
    """Wait for a verdict and keep it; the findings of a deployment that succeeded.

    A dry run writes neither to the cluster nor to Git.
    """
    record = record and not dry_run
    verdict, causes = "deployed", [""]
    checks: Checks | None = None
    if check and not dry_run:
        at = repo.tree(target.commit)
        plan = check_plan.read(at, target.environment, target.services, gateway)
        if repo.git.resolve(f"{target.commit}^") is not None:
            before = repo.tree(f"{target.commit}^")
            gone = check_plan.hosts_taken_out(before, at, target.environment)
            notes = [
                f"{host} is answered 404 from now on: it is no host any more." for host in gone
            ]
            plan = replace(plan, notes=(*plan.notes, *notes))
        checks = Checks(
            cluster, plan, verified_manifests.manifests(cluster, at, target.environment)
        )
        requests = requests or user_requests(repo, cluster, target)
    try:
        watch = Watch(
            repo,
            cluster,
            target,
            timeout=timeout,
            poll=poll,
            run_cronjobs=run_cronjobs,
            preempt=preempt,
            dry_run=dry_run,
            checks=checks,
            requests=requests,
        )
        found = watch.wait()
        for note in checks.notes if checks is not None else ():
            output.warned(note)
        if not target.services and not dry_run:
            kept(repo, cluster, target)
        return found
    except (FailedError, TimedOutError) as error:
        verdict = "failed" if isinstance(error, FailedError) else "timed out"
        causes = [error.message]
        raise
    except BaseException:
        record = False
        raise
    finally:
        # A verdict on some services says nothing of the environment.
        if record and not target.services:
            made = verdicts.make(
                target.environment,
                verdict,
                target.files,
                by=person(repo),
                now=now(),
                causes=[cause for cause in causes if cause],
            )
            try:
                verdicts.record(repo, target.commit, made)
            except ReleaseError as error:
                output.warned(f"The verdict is not recorded: {error}")


def kept(repo: ManifestRepo, cluster: Cluster, target: Target) -> None:
    """Keep what was just seen healthy in the cluster, for `rollback --offline`."""
    env, logged = target.environment, deployments.logged(repo.git, target.commit)
    faulty: list[str] = []
    if (restored := logged.first(msg.RESTORES)) and repo.git.resolve(restored):
        faulty = repo.git.text("rev-list", f"{restored}..{target.commit}").split()
    try:
        manifests = snapshots.captured(cluster, cluster.applications(env))
        made = snapshots.Snapshot(env, target.commit, person(repo), manifests)
        snapshots.keep(cluster, made, faulty)
    except ReleaseError as error:
        output.warned(f"This deployment is not kept for `rollback --offline`: {error}")


def reverted(repo: ManifestRepo, target: Target, reason: str, *, dry_run: bool = False) -> str:
    """Take a failed deployment back; a sentence on what came of it."""
    parent = f"{target.commit}^"
    touched = repo.git.text(
        "diff", "--name-only", parent, target.commit, "--", f"values/{target.environment}"
    ).split()
    services = sorted(set(map(tree.release_of, touched)))
    planner = Rollback(
        target.environment, person(repo), reason, now(), services=services, to=parent, hold=False
    )
    try:
        result = transaction.apply(repo, Revert(target, planner), dry_run=dry_run)
    except ReleaseError as error:
        return f"It was not reverted: {error.message}"
    if dry_run and result.plan.edits:
        return f"It would be reverted to what was before {target.commit[:12]}."
    return f"It was reverted by {result.commit}." if result.commit else "Nothing to revert."
