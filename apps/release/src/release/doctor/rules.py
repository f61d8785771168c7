"""GitHub: what stands between a push and main. People must go through it, the App must not.

Paths and fields are those of GitHub's REST API, version 2022-11-28.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from release.doctor.ref_patterns import covers
from release.doctor.results import Check, fault, guarded, ok, unknown
from release.git.github import GitHub, GitHubRefusedError

AREA = "GitHub"
GATE = "gate"
LETS_PUSH = frozenset(
    {"creation", "deletion", "non_fast_forward", "required_linear_history", "copilot_code_review"}
)
"""Rules that a push of new commits without a merge meets. Any other may refuse the App's."""
BYPASSES = ("always", "exempt")
"""Modes in which an actor may push; with ``pull_request`` it may only merge."""


@dataclass(frozen=True)
class App:
    """An installed GitHub App."""

    id: int
    slug: str


@dataclass
class _Found:
    """What the rules ask of people, and whether one of them stops the App."""

    pull_request: bool = False
    contexts: set[str] = field(default_factory=set)
    barred: bool = False


def checks(
    github: GitHub, branch: str, default_branch: str, apps: Sequence[App]
) -> Iterator[Check]:
    """The rulesets and the classic protection of a branch; ``apps`` is the App, if it is known."""
    found = _Found()
    yield from guarded(
        AREA,
        f"rulesets of {branch}",
        lambda: _rulesets(github, branch, default_branch, apps, found),
    )
    yield from guarded(
        AREA, f"protection of {branch}", lambda: _protection(github, branch, apps, found)
    )
    if not apps:
        yield unknown(
            AREA, f"rules of {branch}: the App", "it is not known, so no bypass was looked for",
            "look whether each rule of the branch lets the App pass, always",
        )  # fmt: skip
    elif not found.barred:
        yield ok(AREA, f"rules of {branch}: the App", f"{apps[0].slug} may push")
    if found.pull_request:
        yield ok(AREA, f"rules of {branch}: people", "go through a pull request")
    else:
        yield fault(
            AREA, f"rules of {branch}: people", "whoever may push may push to it, and so deploy",
            f"make a ruleset for {branch} that requires a pull request",
        )  # fmt: skip
    if GATE in found.contexts:
        yield ok(AREA, f"rules of {branch}: checks", f"`{GATE}` is required")
    else:
        yield fault(
            AREA, f"rules of {branch}: checks", f"the check `{GATE}` of ci is not required",
            f"require the status check `{GATE}` in the ruleset, and branches to be up to date",
        )  # fmt: skip


def _rulesets(
    github: GitHub, branch: str, default_branch: str, apps: Sequence[App], found: _Found
) -> Iterable[Check]:
    listed = github.read_all(
        f"/repos/{github.repository}/rulesets", None, {"includes_parents": "true"}
    )
    for short in listed:
        if short.get("enforcement") != "active" or short.get("target") not in ("branch", "push"):
            continue
        ruleset = github.read(f"/repos/{github.repository}/rulesets/{short['id']}")
        pushes = short["target"] == "push"
        if not pushes and not covers(ruleset, branch, default_branch):
            continue
        kinds = {one["type"]: one.get("parameters") or {} for one in ruleset.get("rules") or []}
        named = kinds.get("required_status_checks", {}).get("required_status_checks") or []
        found.contexts |= {one["context"] for one in named}
        found.pull_request |= "pull_request" in kinds
        stops = sorted(kinds.keys() - LETS_PUSH)
        if apps and stops:
            yield from _bypass(ruleset, branch, stops, apps[0], found, pushes=pushes)


def _bypass(
    ruleset: Mapping[str, Any],
    branch: str,
    stops: Sequence[str],
    app: App,
    found: _Found,
    *,
    pushes: bool,
) -> Iterator[Check]:
    title, actors = f"ruleset {ruleset['name']}", ruleset.get("bypass_actors")
    add = f"add {app.slug} to the bypass list of the ruleset {ruleset['name']}, mode `always`"
    if actors is None:
        yield unknown(
            AREA, title, "its bypass list is not shown to this token",
            "run this once with an administrator's token",
        )  # fmt: skip
        return
    ours = [
        one
        for one in actors
        if one.get("actor_type") == "Integration" and one.get("actor_id") == app.id
    ]
    modes = [one.get("bypass_mode", "always") for one in ours]
    if any(mode in BYPASSES for mode in modes):
        return
    if pushes:
        yield unknown(
            AREA, title, f"{', '.join(stops)} may refuse what {app.slug} writes to values/", add
        )
        return
    found.barred = True
    stopped = f"{', '.join(stops)} of {branch} stop {app.slug}, which pushes values"
    if modes:
        stopped += f"; its bypass mode is `{modes[0]}`, which lets it merge and not push"
        add = f"set the bypass mode of {app.slug} in the ruleset {ruleset['name']} to `always`"
    yield fault(AREA, title, stopped, add)


def _protection(github: GitHub, branch: str, apps: Sequence[App], found: _Found) -> Iterable[Check]:
    """The classic protection rule, which holds beside the rulesets."""
    title = f"protection of {branch}"
    path = f"/repos/{github.repository}/branches/{quote(branch, safe='')}/protection"
    try:
        protection = github.read(path)
    except GitHubRefusedError as error:
        if error.status != 404:
            raise
        yield ok(AREA, title, "there is no classic protection rule")
        return
    reviews = protection.get("required_pull_request_reviews")
    status = protection.get("required_status_checks") or {}
    contexts = {one["context"] for one in status.get("checks") or []}
    contexts |= set(status.get("contexts") or [])
    found.pull_request |= reviews is not None
    found.contexts |= contexts
    if not apps:
        return
    app = apps[0]
    stops = list(_stops(protection, contexts, app.slug))
    if not stops:
        yield ok(AREA, title, f"the classic protection rule lets {app.slug} push")
        return
    found.barred = True
    yield fault(
        AREA, title,
        f"the classic protection rule ({', '.join(stops)}) stops {app.slug}, which pushes values",
        "Settings > Branches: delete the rule, and let the ruleset require the same; a ruleset's "
        f"bypass list lets {app.slug} pass every rule",
    )  # fmt: skip


def _stops(protection: Mapping[str, Any], contexts: set[str], slug: str) -> Iterator[str]:
    def lists(section: Mapping[str, Any] | None) -> bool:
        return slug in {one.get("slug") for one in (section or {}).get("apps") or []}

    reviews = protection.get("required_pull_request_reviews")
    if reviews is not None and not lists(reviews.get("bypass_pull_request_allowances")):
        yield "required_pull_request_reviews"
    restrictions = protection.get("restrictions")
    if restrictions is not None and not lists(restrictions):
        yield "restrictions"
    if contexts:
        yield "required_status_checks"
    for name in ("required_signatures", "lock_branch"):
        if (protection.get(name) or {}).get("enabled"):
            yield name
