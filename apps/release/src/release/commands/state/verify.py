"""`release verify`: wait for the verdict on a deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from release.checks.user_requests import Limit, UserRequests
from release.commands import output, verdict
from release.commands.frame import opened
from release.commands.options import (
    ClusterOptions,
    EnvOption,
    GatewayOption,
    JsonOption,
    ManifestOptions,
    PrometheusOption,
    ServicesOption,
    TimeoutOption,
    expanded,
)
from release.errors import FailedError
from release.live.traffic import IN_CLUSTER
from release.status import table
from release.verification.target import target_of


@expanded
def verify_command(
    *,
    env: EnvOption,
    commit: Annotated[
        str | None, typer.Option("--commit", help="Commit to wait for; else the newest deployment.")
    ] = None,
    service: ServicesOption = None,
    timeout: TimeoutOption = 300.0,
    poll: Annotated[
        float, typer.Option("--poll", min=0.05, help="Seconds between two looks.")
    ] = 1.0,
    run_cronjobs: Annotated[
        bool,
        typer.Option(
            "--run-cronjobs/--no-run-cronjobs",
            help="Run once as a Job what no pod runs, a CronJob's image or that of a Deployment "
            "scaled to zero: being applied proves nothing.",
        ),
    ] = True,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Keep the verdict in refs/notes/verdicts.")
    ] = True,
    revert_on_failure: Annotated[
        bool,
        typer.Option(
            "--revert-on-failure",
            help="Take the deployment back when it fails, unless anybody changed or holds it.",
        ),
    ] = False,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Ask each service by its `check` and each model with its samples.",
        ),
    ] = True,
    gateway: GatewayOption = "",
    failed_share: Annotated[
        float,
        typer.Option(
            "--failed-share",
            min=0,
            max=1,
            help="Share of users' requests since the commit that may fail (500 and above) or be "
            "refused (429, 503); 1 fails no verdict.",
        ),
    ] = Limit.share,
    least_requests: Annotated[
        int,
        typer.Option(
            "--least-requests", min=1, help="Fewer requests of users than this are not judged."
        ),
    ] = Limit.least,
    prometheus: PrometheusOption = IN_CLUSTER,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only look: ask nothing of Argo CD nor of the services, run no Job (what one "
            "would verify counts as verified), record nothing.",
        ),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Wait for the verdict: 0 deployed, 6 failed, 7 timed out, 3 superseded, 8 not found."""
    with opened(json_output, manifests) as repo:
        cluster = in_cluster.client()
        target = target_of(repo, env, commit, service or ())
        requests: UserRequests | None = None
        if check and not dry_run:
            limit = Limit(failed_share, least_requests)
            requests = verdict.user_requests(repo, cluster, target, limit, prometheus)
        try:
            found = verdict.deployed(
                repo,
                cluster,
                target,
                timeout,
                poll=poll,
                run_cronjobs=run_cronjobs,
                record=record,
                dry_run=dry_run,
                check=check,
                gateway=gateway,
                requests=requests,
            )
        except FailedError as error:
            if revert_on_failure:
                error.message += (
                    f" {verdict.reverted(repo, target, error.message, dry_run=dry_run)}"
                )
            raise
        output.printed(
            json_output,
            {
                "verdict": "deployed",
                "environment": env,
                "commit": target.commit,
                "releases": [
                    {"release": f.release, "state": f.state.value, "running": list(f.running)}
                    for f in found
                ],
                "requests": requests.as_json() if requests is not None else None,
            },
            table.findings(found),
            *(requests.notes() if requests is not None else ()),
            f"{env} at {target.commit[:12]}: deployed.",
        )
