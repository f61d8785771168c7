"""`release promote`: what one environment runs goes to the next, by digest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from release.changes.promotion import Promote
from release.changes.pull_request import body, propose
from release.commands import output, verdict
from release.commands.frame import committed, now, opened, person
from release.commands.options import (
    AllowUnrelatedOption,
    ClusterOptions,
    DryRunOption,
    JsonOption,
    OutputOption,
    ServicesOption,
    SigningOptions,
    SourcedManifestOptions,
    TimeoutOption,
    expanded,
    github,
)
from release.errors import ReleaseError
from release.git.repository import ManifestRepo
from release.records import verdicts
from release.verification.target import target_of


@expanded
def promote(
    *,
    source_env: Annotated[str, typer.Option("--from", help="Environment to copy from.")],
    target_env: Annotated[str, typer.Option("--to", help="Environment to copy to.")],
    service: ServicesOption = None,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="Commit of the state that is meant; refused if it moved on."),
    ] = None,
    verify_first: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Get a verdict on what is copied first; by default when Git has none.",
        ),
    ] = None,
    override: Annotated[
        str,
        typer.Option("--override", help="Why this goes without verdict, soak time or window."),
    ] = "",
    timeout: TimeoutOption = 300.0,
    allow_unrelated: AllowUnrelatedOption = False,
    in_cluster: ClusterOptions,
    manifests: SourcedManifestOptions,
    signing: SigningOptions,
    pull_request: Annotated[
        bool,
        typer.Option("--pull-request", help="Open a pull request, or renew the open one."),
    ] = False,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Copy images and models, by digest, from one environment to the next.

    Only what has a verdict: what `release verify` saw healthy there, for the soak time and in
    the windows that values/promotion.yaml sets for the target.
    """
    with opened(json_output, manifests) as repo, manifests.sources(repo) as order:
        if pull_request and signing.github_api:
            raise ReleaseError(
                f"--github-api commits to {manifests.branch}; a pull request's branch is pushed.",
                fix="leave one of --github-api and --pull-request out",
            )
        known = verdicts.Log([]) if override else verdicts.read(repo)
        if verify_first is None:
            target = target_of(repo, source_env, expect)
            verify_first = not override and known.verified_since(source_env, target.files) is None
        if verify_first:
            cluster = in_cluster.client()
            target = target_of(repo, source_env, expect)
            verdict.deployed(repo, cluster, target, timeout, dry_run=dry_run)
            known = verdicts.read(repo)
            if dry_run:  # the verdict that would be kept
                seen = verdicts.make(
                    source_env, "deployed", target.files, by=person(repo), now=now()
                )
                known = verdicts.Log([*known.entries, seen])
        planner = Promote(
            source_env,
            target_env,
            order,
            now(),
            services=service or (),
            expect=expect,
            branch=manifests.branch,
            allow_unrelated=allow_unrelated,
            verdicts=known,
            override=override,
        )
        if pull_request and not dry_run:
            proposed(repo, planner, output_file, sign=signing.sign, json_output=json_output)
            return
        committed(
            repo, planner, signing,
            dry_run=dry_run, json_output=json_output, output_file=output_file,
        )  # fmt: skip


def proposed(
    repo: ManifestRepo,
    planner: Promote,
    output_file: Path | None,
    *,
    sign: bool,
    json_output: bool,
) -> None:
    """Put a promotion on a branch and open its pull request, or renew the one that is open."""
    forge = github()
    branch = f"promote/{planner.source}-to-{planner.target}"
    made = propose(repo, planner, branch, sign=sign)
    content: dict[str, object] = {"branch": branch, "commit": made.commit, "pull_request": None}
    if made.commit is None:
        output.printed(json_output, content, *made.plan.notes, "Nothing to change.")
        return
    text = body(repo, made, planner.source, planner.target, planner.sources)
    number, url, reused = forge.pull_request(branch, repo.branch, made.plan.message.subject, text)
    output.written(output_file, {"pull_request": str(number), "url": url})
    content |= {"pull_request": number, "url": url, "reused": reused}
    output.printed(json_output, content, f"{'Renewed' if reused else 'Opened'} {url}")
