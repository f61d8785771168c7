"""The commands `release doctor` and `release registry create`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from release.commands import output
from release.commands.frame import reported
from release.commands.options import BranchOption, JsonOption, ReadsOption
from release.doctor.results import Check, unknown
from release.errors import Exit, ReleaseError
from release.git.commit_tree import CommitTree
from release.git.repository import open_repo
from release.values import tree

RepoOption = Annotated[
    str | None,
    typer.Option("--manifest-repo", envvar="MANIFEST_REPO", help="Clone or URL to look at."),
]


def services(at: CommitTree, environments: Sequence[str]) -> list[str]:
    """Names of the images that this repository builds and an environment deploys, sorted."""
    return sorted(
        {
            name
            for environment in environments
            for name, _ in tree.images(at, environment).values()
            if at.read(f"apps/{name}/pyproject.toml") is not None
        }
    )


def examined(at: CommitTree, branch: str) -> Iterator[Check]:
    """Every check, GitHub's first: its variables say where AWS is."""
    # An HTTP client takes as long to import as everything else, and other commands need none.
    from release.doctor import aws, github  # noqa: PLC0415
    from release.git.github import GitHub  # noqa: PLC0415

    environments = tree.environments(at)
    try:
        host = GitHub.from_environment()
    except ReleaseError as error:
        yield unknown(github.AREA, "repository", error.message, "set GITHUB_REPOSITORY=owner/name "
                      "and GITHUB_TOKEN, for example GITHUB_TOKEN=$(gh auth token)")  # fmt: skip
        return
    variables: dict[str, str] = {}
    for check in github.checks(host, environments, branch):
        if check.state == "ok" and check.name.startswith("variable "):
            variables[check.name.removeprefix("variable ")] = check.found
        yield check
    registry = variables.get("IMAGE_REGISTRY", "")
    repositories = [f"{registry}/{name}" for name in services(at, environments)] if registry else []
    wanted = aws.subjects(host.repository, environments, branch)
    yield from aws.checks(variables, wanted, repositories)


def doctor(
    *,
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Look at what an installation rests on, and name each fault with its fix.

    Ends with 6 where there is a fault. What could not be looked at is listed, and is no fault.
    """

    with reported(json_output), open_repo(manifest_repo, branch) as repo:
        found = list(examined(repo.tree(repo.fetch()), branch))
        counts = Counter(check.state for check in found)
        rows = [[c.state, c.area, c.name, c.found] for c in found]
        fixes = [f"{c.area}, {c.name}: {c.fix}" for c in found if c.state != "ok"]
        total = ", ".join(f"{counts[state]} {state}" for state in ("ok", "fault", "unknown"))
        output.printed(
            json_output,
            {"checks": [vars(check) for check in found], "counts": dict(counts)},
            output.table(["", "area", "what", "found"], rows),
            *(["", "To do:"] if fixes else []),
            *fixes,
            "",
            total,
        )
        if counts["fault"]:
            raise typer.Exit(int(Exit.FAILED))


def registry_create(
    *,
    image_registry: Annotated[
        str,
        typer.Option(
            "--image-registry",
            envvar="IMAGE_REGISTRY",
            help="Host and path, like 111122223333.dkr.ecr.ap-northeast-2.amazonaws.com/slipway.",
        ),
    ],
    service: Annotated[
        list[str] | None,
        typer.Option("--service", help="Only this image; may be repeated."),
    ] = None,
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Make the repositories in ECR that images are pushed to: immutable tags, scanned on push."""
    from release.registry.client import make_repository  # noqa: PLC0415

    with reported(json_output), open_repo(manifest_repo, branch) as repo:
        at = repo.tree(repo.fetch())
        made = {
            name: make_repository(name, dry_run=dry_run)
            for name in [
                f"{image_registry}/{one}" for one in service or services(at, tree.environments(at))
            ]
        }
        output.printed(
            json_output,
            {"dry_run": dry_run, "repositories": made},
            *(f"{name}: {what}" for name, what in made.items()),
        )
