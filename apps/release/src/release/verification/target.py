"""What a verdict is about: the state of an environment at a commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from release.errors import NotFoundError
from release.git.repository import ManifestRepo
from release.records import deployments
from release.status import table
from release.values import tree
from release.values.references import Image


@dataclass(frozen=True)
class Target:
    """What is to be seen: an environment at a commit."""

    environment: str
    commit: str
    wanted: Mapping[str, Image]
    files: tuple[tuple[str, str], ...]
    services: tuple[str, ...] = ()


def target_of(
    repo: ManifestRepo, environment: str, commit: str | None, services: Sequence[str] = ()
) -> Target:
    """What to look for: the state of an environment at a commit, the newest one by default.

    Raises NotFoundError for an unknown environment, commit or service.
    """
    head = repo.fetch()
    if commit is not None:
        resolved = repo.git.resolve(commit)
        if resolved is None or not repo.git.is_ancestor(resolved, head):
            raise NotFoundError(
                f"{repo.branch} of the manifest repository has no commit {commit!r}.",
                fix="was it pushed? `release history` lists the deployments",
            )
        head = resolved
    at = repo.tree(head)
    tree.require_environment(at, environment)
    wanted = table.wanted_images(at, environment)
    for service in services:
        if service not in wanted:
            raise tree.unknown_service(service, wanted, environment, "release")
    if commit is None:
        newest = deployments.log(repo.git, head, environment, services, limit=1)
        head = newest[0].commit if newest else head
    return Target(
        environment,
        head,
        {r: image for r, image in wanted.items() if not services or r in services},
        deployments.files_at(at, environment, services),
        tuple(services),
    )
