"""Every check over a tree, and what they found put together."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from release.errors import BadValuesError, NotFoundError
from release.git.commit_tree import CommitTree
from release.git.program import Git
from release.render import helm
from release.render.helm import Release
from release.validate.environment import Environment
from release.validate.files import applications, duplicates, listing
from release.validate.findings import Finding, merged
from release.validate.network import addresses, callers, egress
from release.validate.objects import labels, names, schemas
from release.validate.settings import variables
from release.validate.settings.variables import Settings
from release.validate.workloads import quantities, quota, schedules, secret_names
from release.values import holds, tree


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
    known = helm.environments(root)
    for environment in only:
        if environment not in known:
            near = difflib.get_close_matches(environment, known, n=1)
            raise NotFoundError(
                f"Nobody deploys the environment {environment!r}: there is no ApplicationSet "
                f"argocd/environments/{environment}.yaml in {root.resolve()}.",
                fix=f"did you mean {near[0]!r}?"
                if near
                else f"use one of {', '.join(known) or '(none)'}, or name another folder",
            )
    chosen = [environment for environment in known if not only or environment in only]
    findings: list[Finding] = []
    if not only:
        findings += completed("folders", "argocd", lambda: listing.of_tree(root, known))
    deployed = [name for name in chosen if (root / "values" / name).is_dir()]
    findings += completed("the root", listing.ROOT, lambda: listing.of_root(root, deployed))
    findings += completed("duplicate keys", "values", lambda: duplicates.findings(root))
    if base is not None:
        findings += held_changes(Git(root), base, only, datetime.now(UTC))
    rows: dict[str, list[Release]] = {}
    unread: dict[str, Finding] = {}
    for environment in known:
        try:
            rows[environment] = helm.releases(root, environment)
        except BadValuesError as error:
            file = f"argocd/environments/{environment}.yaml"
            unread[environment] = Finding(
                file, 0, "", error.message.removeprefix(f"{file}: "), error.fix
            )  # fmt: skip
    for environment in chosen:
        if environment in rows:  # else every file would be one of an unknown release
            findings += completed(
                "the listed releases",
                f"argocd/environments/{environment}.yaml",
                partial(listing.of_environment, root, environment, rows[environment]),
            )
        found = list(
            completed(
                "the application set",
                f"argocd/environments/{environment}.yaml",
                partial(applications.findings, root, environment, known),
            )
        )
        findings += found
        # A field that no row has is named there already, with the line.
        if environment in unread and not any("names the field" in one.message for one in found):
            findings.append(unread[environment])
    findings += completed("hosts", "values", lambda: applications.hosts(root, rows, chosen))
    findings += completed(
        "hosts of namespaces", "argocd", lambda: applications.foreign_hosts(root, rows, chosen)
    )
    wanted = [row for environment in chosen for row in rows.get(environment, [])]
    results = helm.render_all(root, wanted, placeholders=True)
    for result in results:
        if result.error:
            folder = f"values/{result.release.environment}"
            refused = partial(schemas.of_helm, root, result)
            findings += completed("what Helm refuses", folder, refused)
    good = [result for result in results if not result.error]
    documents = {result.release: result.manifests for result in good}
    findings += completed("schemas", "charts", lambda: schemas.of_schemas(root, good))
    settings, notes = variables.read(root)
    names_of = {name: frozenset(row.name for row in some) for name, some in rows.items()}
    for environment in chosen:
        own = {r: d for r, d in documents.items() if r.environment == environment}
        unseen = frozenset(
            result.release.name
            for result in results
            if result.error and result.release.environment == environment
        )
        seen = Environment(root, own, unseen, names_of)
        findings += cross_checks(seen, settings)
    count = sum(map(len, documents.values()))
    return Report(merged(findings), len(wanted), count, notes)


def cross_checks(environment: Environment, settings: Settings) -> Iterator[Finding]:
    """What no schema sees, within one environment."""
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "settings": lambda: variables.findings(environment, settings),
        "kinds": lambda: schemas.of_project(environment),
        "names": lambda: names.findings(environment),
        "callers": lambda: callers.findings(environment),
        "addresses": lambda: addresses.findings(environment),
        "hosts outside": lambda: egress.findings(environment),
        "Secrets' names": lambda: secret_names.findings(environment),
        "schedules": lambda: schedules.findings(environment),
        "labels": lambda: labels.findings(environment),
        "quantities": lambda: quantities.findings(environment),
        "the quota": lambda: quota.findings(environment),
    }
    folder = f"values/{environment.name}"
    found = [one for name, check in checks.items() for one in completed(name, folder, check)]
    yield from found
    # A value that is wrong differs from the right one as well: that is one fault.
    wrong = {".".join(one.key.split(".")[:2]) for one in found if one.key.startswith("env.")}
    shared = completed(
        "shared settings", folder, lambda: variables.differences(environment, settings)
    )
    for one in shared:
        if one.key not in wrong:
            yield one


def completed(name: str, where: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; one that fails is a finding itself and takes no other with it.

    Raises NotFoundError where a program is missing.
    """
    try:
        yield from check()
    except NotFoundError:
        raise
    except Exception as error:  # whatever it is: what the other checks find is kept
        yield Finding(
            where, 0, "", f"the check of {name} failed, so that it may have missed something: "
            f"{type(error).__name__}: {' '.join(str(error).split())}",
            "mend the other findings first; if it stays, report it with the file that causes it",
        )  # fmt: skip


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
