"""Every check over a whole tree, and what they found put together."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from release import holds, render, tree
from release.errors import BadValuesError, NotFoundError
from release.git import CommitTree, Git
from release.render import Release
from release.validate import (
    addresses,
    callers,
    duplicates,
    egress,
    listing,
    names,
    objects,
    quota,
    variables,
)
from release.validate.environment import Environment
from release.validate.findings import Finding, merged
from release.validate.variables import Settings


@dataclass(frozen=True)
class Report:
    """What was checked and what was found."""

    findings: Sequence[Finding]
    rendered: int
    manifests: int
    notes: Sequence[str] = ()


def validate(root: Path, only: Sequence[str] = (), base: str | None = None) -> Report:
    """Check a tree of files; ``only`` names environments, none means all.

    With ``base``, a commit of the clone that ``root`` is, changes to what is held there are found
    as well.

    Raises NotFoundError for a folder, environment or commit that is not there, or a program that
    is missing.
    """
    for folder in ("charts", "values", "argocd"):
        if not (root / folder).is_dir():
            raise NotFoundError(
                f"{root} has no folder {folder}.",
                fix="name the folder that has charts, values and argocd",
            )
    known = render.environments(root)
    for environment in only:
        if environment not in known:
            near = difflib.get_close_matches(environment, known, n=1)
            raise NotFoundError(
                f"Nobody deploys the environment {environment!r}: there is no ApplicationSet "
                f"argocd/{environment}.yaml in {root.resolve()}.",
                fix=f"did you mean {near[0]!r}?"
                if near
                else f"use one of {', '.join(known) or '(none)'}, or name another folder",
            )
    chosen = [environment for environment in known if not only or environment in only]
    findings: list[Finding] = [] if only else list(listing.of_tree(root, known))
    findings += duplicates.findings(root)
    if base is not None:
        findings += held_changes(Git(root), base, only, datetime.now(UTC))
    rows: dict[str, list[Release]] = {}
    for environment in known:
        try:
            rows[environment] = render.releases(root, environment)
        except BadValuesError as error:
            if environment in chosen:
                file = f"argocd/{environment}.yaml"
                findings.append(Finding(file, 0, "", error.message, error.fix))
    for environment in chosen:
        findings += listing.of_environment(root, environment, rows.get(environment, []))
    wanted = [row for environment in chosen for row in rows.get(environment, [])]
    results = render.render_all(root, wanted, placeholders=True)
    for result in results:
        if result.error:
            findings += objects.of_helm(root, result)
    good = [result for result in results if not result.error]
    documents = {result.release: result.manifests for result in good}
    findings += objects.of_schemas(root, good)
    settings, notes = variables.read(root)
    allowed = objects.allowed_kinds(root)
    names_of = {name: frozenset(row.name for row in some) for name, some in rows.items()}
    for environment in chosen:
        own = {r: d for r, d in documents.items() if r.environment == environment}
        unseen = frozenset(
            result.release.name
            for result in results
            if result.error and result.release.environment == environment
        )
        seen = Environment(root, own, unseen, names_of)
        findings += cross_checks(seen, settings, allowed)
    count = sum(map(len, documents.values()))
    return Report(merged(findings), len(wanted), count, notes)


def cross_checks(
    environment: Environment, settings: Settings, allowed: set[tuple[str, str]]
) -> Iterator[Finding]:
    """What no schema sees, within one environment."""
    found = [
        *variables.findings(environment, settings),
        *objects.of_project(environment, allowed),
        *names.findings(environment),
        *callers.findings(environment),
        *addresses.findings(environment),
        *egress.findings(environment),
        *quota.findings(environment),
    ]
    yield from found
    # A value that is wrong differs from the right one as well: that is one fault.
    wrong = {(one.file, one.line, one.key) for one in found}
    for one in variables.differences(environment, settings):
        if (one.file, one.line, one.key) not in wrong:
            yield one


def held_changes(git: Git, base: str, only: Sequence[str], now: datetime) -> Iterator[Finding]:
    """Changes since ``base`` of releases that are on hold there: a merge must not pass a hold.

    ``only`` names environments, none means all that ``base`` has.

    Raises NotFoundError when the clone has no such commit.
    """
    commit = git.resolve(base)
    if commit is None:
        raise NotFoundError(f"This clone has no commit {base!r}.", fix="fetch it first")
    at = CommitTree(git, commit)
    began = git.text("merge-base", commit, "HEAD")
    for environment in only or tree.environments(at):
        held = holds.read(at, environment)
        changed = git.text(
            "diff", "--name-only", "--no-renames", "-z", began, "--", f"values/{environment}"
        ).split("\0")
        for path in filter(None, changed):
            hold = holds.covering(held, tree.release_of(path), now)
            if hold is not None and path != tree.hold_file(environment):
                refused = holds.refuse(environment, tree.release_of(path), hold)
                yield Finding(path, 0, "", refused.message.rstrip("."), refused.fix)
