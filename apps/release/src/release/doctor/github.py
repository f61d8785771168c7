"""GitHub: the App, its key, the environments and the variables.

Paths and fields are those of GitHub's REST API, version 2022-11-28.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from release.doctor import rules
from release.doctor.results import Check, fault, guarded, ok, unknown
from release.doctor.rules import App
from release.git.github import GitHub, GitHubRefusedError

AREA = "GitHub"
KEY = "RELEASE_APP_KEY"
CLIENT_ID = "RELEASE_APP_CLIENT_ID"
ROLLBACK = "rollback"
"""The environment of the rollback workflow: it holds the key too, and has no reviewers."""
REVIEWED = "prod"
"""The environment whose deployments wait for a person."""
ROLES = ("AWS_BUILD_ROLE", "AWS_DEPLOY_ROLE", "AWS_MODEL_ROLE")
VARIABLES = ("IMAGE_REGISTRY", "AWS_REGION", *ROLES, CLIENT_ID)
PERMISSIONS = {"contents": "write", "pull_requests": "write", "metadata": "read"}
"""What the App needs. More is more than whoever steals the key should get."""


def checks(github: GitHub, environments: Sequence[str], branch: str) -> Iterator[Check]:
    """Everything about the repository.

    ``environments`` are those that are deployed; ``branch`` is the one that Argo CD follows.
    """
    try:
        repository = github.read(f"/repos/{github.repository}")
    except GitHubRefusedError as error:
        yield fault(
            AREA, "repository", f"{github.repository}: {error.message}",
            "name it in GITHUB_REPOSITORY (owner/name), and set GITHUB_TOKEN to a token of an "
            "administrator, for example GITHUB_TOKEN=$(gh auth token)",
        )  # fmt: skip
        return
    yield ok(AREA, "repository", f"{github.repository} answers")
    if not repository.get("permissions", {}).get("admin"):
        yield unknown(
            AREA, "token", "the token is no administrator's, so what it is not shown looks absent",
            "run this once with an administrator's token",
        )  # fmt: skip
    variables: dict[str, str] = {}
    yield from guarded(AREA, "variables", lambda: _variables(github, variables, environments))
    yield from guarded(AREA, "secrets", lambda: _secrets(github))
    yield from guarded(AREA, "secrets beside Actions", lambda: _secrets_beside_actions(github))
    for name in (*environments, ROLLBACK):
        look = functools.partial(_environment, github, name, branch)
        yield from guarded(AREA, f"environment {name}", look)
    known = {*environments, ROLLBACK}
    yield from guarded(AREA, "other environments", lambda: _others(github, known, branch))
    apps: list[App] = []
    owner = repository.get("owner", {})
    yield from guarded(AREA, "App", lambda: _app(github, owner, variables.get(CLIENT_ID, ""), apps))
    yield from rules.checks(github, branch, repository.get("default_branch") or branch, apps)


def _variables(
    github: GitHub, found: dict[str, str], environments: Sequence[str]
) -> Iterable[Check]:
    listed = github.read_all(f"/repos/{github.repository}/actions/variables", "variables")
    found.update({one["name"]: one["value"] for one in listed})
    for name in (*VARIABLES, *(f"CLUSTER_{one.upper()}" for one in environments)):
        if found.get(name):
            yield ok(AREA, f"variable {name}", found[name])
        else:
            yield fault(
                AREA, f"variable {name}", "is not set",
                f"gh variable set {name} --repo {github.repository} --body …",
            )  # fmt: skip


def _secrets(github: GitHub) -> Iterable[Check]:
    """The key may lie nowhere that every branch's workflows can read."""
    for where, path in (
        ("the repository", "secrets"),
        ("the organisation", "organization-secrets"),
    ):
        listed = github.read_all(f"/repos/{github.repository}/actions/{path}", "secrets")
        if KEY in {one["name"] for one in listed}:
            yield fault(
                AREA, f"{KEY} of {where}", "any workflow of any branch can read it",
                f"delete it there, and keep it in the environments: gh secret delete {KEY}",
            )  # fmt: skip
        else:
            yield ok(AREA, f"{KEY} of {where}", "is not there, as it must be")


def _secrets_beside_actions(github: GitHub) -> Iterable[Check]:
    """The key may not lie with Dependabot or Codespaces either, which have secrets of their own."""
    for where, app, readers in (
        ("Dependabot", "dependabot", "the workflows that Dependabot's pull requests start"),
        ("Codespaces", "codespaces", "whoever may open a codespace"),
    ):
        try:
            listed = github.read_all(f"/repos/{github.repository}/{app}/secrets", "secrets")
        except GitHubRefusedError as error:
            if error.status != 404:
                raise
            continue  # a repository that does not have it
        if KEY in {one["name"] for one in listed}:
            yield fault(
                AREA, f"{KEY} of {where}", f"{readers} can read it",
                f"gh secret delete {KEY} --app {app} --repo {github.repository}",
            )  # fmt: skip


def _environment(github: GitHub, name: str, branch: str) -> Iterable[Check]:
    title, path = f"environment {name}", _environment_path(github, name)
    try:
        environment = github.read(path)
    except GitHubRefusedError as error:
        if error.status != 404:
            raise
        yield fault(
            AREA, title, "does not exist",
            f"gh api --method PUT {path} (docs/bootstrap.md says with which branches)",
        )  # fmt: skip
        return
    allowed = _allowed(github, path, environment)
    if allowed == [f"branch {branch}"]:
        yield ok(AREA, f"{title}: branches", branch)
    else:
        yield fault(
            AREA, f"{title}: branches", f"{', '.join(allowed)} may deploy and read {KEY}",
            f"Settings > Environments > {name} > Deployment branches and tags: selected, {branch}",
        )  # fmt: skip
    kept = github.read_all(f"{path}/secrets", "secrets")
    if KEY in {one["name"] for one in kept}:
        yield ok(AREA, f"{title}: {KEY}", "is there")
    else:
        yield fault(
            AREA, f"{title}: {KEY}", "is not there, so its workflow cannot write to Git",
            f"gh secret set {KEY} --env {name} --repo {github.repository} < app.pem",
        )  # fmt: skip
    protecting = environment.get("protection_rules") or []
    # A rule without a list of reviewers is no rule without reviewers: only an empty list is.
    kinds = {rule["type"] for rule in protecting if rule.get("reviewers") != []}
    if name == ROLLBACK and kinds & {"required_reviewers", "wait_timer"}:
        yield fault(
            AREA, f"{title}: reviewers", "a rollback would wait for a person or a timer",
            f"Settings > Environments > {name}: no required reviewers, no wait timer",
        )  # fmt: skip
    elif name == REVIEWED and "required_reviewers" in kinds:
        yield ok(AREA, f"{title}: reviewers", "somebody must approve")
    elif name == REVIEWED:
        yield fault(
            AREA, f"{title}: reviewers", "has no required reviewers: nobody approves a deployment",
            f"Settings > Environments > {name} > Required reviewers: name people or a team",
        )  # fmt: skip


def _environment_path(github: GitHub, name: str) -> str:
    return f"/repos/{github.repository}/environments/{quote(name, safe='')}"


def _allowed(github: GitHub, path: str, environment: dict[str, Any]) -> list[str]:
    """The branches and tags whose runs may read an environment's secrets, each with its kind."""
    policy = environment.get("deployment_branch_policy") or {}
    if policy.get("custom_branch_policies"):
        listed = github.read_all(f"{path}/deployment-branch-policies", "branch_policies")
        return [f"{one.get('type', 'branch')} {one['name']}" for one in listed] or ["no branch"]
    return ["every protected branch" if policy.get("protected_branches") else "every branch"]


def _others(github: GitHub, known: set[str], branch: str) -> Iterable[Check]:
    """The key may lie in no environment beside those that a workflow of ours uses."""
    listed = github.read_all(f"/repos/{github.repository}/environments", "environments")
    holding = []
    for environment in listed:
        name = environment["name"]
        path = _environment_path(github, name)
        if name in known or KEY not in {
            one["name"] for one in github.read_all(f"{path}/secrets", "secrets")
        }:
            continue
        holding.append(name)
        readers = ", ".join(_allowed(github, path, environment))
        yield fault(
            AREA, f"environment {name}: {KEY}",
            f"no workflow needs the key there, and runs of {readers} read it, past every approval",
            f"gh secret delete {KEY} --env {name} --repo {github.repository}, and make a new key "
            f"of the App if anything but {branch} could read this one",
        )  # fmt: skip
    if not holding:
        yield ok(AREA, f"{KEY} of other environments", "is not there, as it must be")


def _app(github: GitHub, owner: dict[str, Any], client_id: str, apps: list[App]) -> Iterable[Check]:
    """The App that writes to Git: installed here, with what it needs and nothing more."""
    if owner.get("type") != "Organization":
        yield unknown(
            AREA, "App", "a person's installations are not listed by GitHub's API",
            "look at Settings > Applications > Installed GitHub Apps: contents and pull requests, "
            "read and write, of this repository only",
        )  # fmt: skip
        return
    listed = github.read_all(f"/orgs/{owner['login']}/installations", "installations")
    installed = [one for one in listed if client_id and one.get("client_id") == client_id]
    if not installed:
        yield fault(
            AREA, "App", f"no App with the client id {client_id or '(none)'} is installed",
            f"install it for {github.repository}, and set {CLIENT_ID} to its client id",
        )  # fmt: skip
        return
    one = installed[0]
    apps.append(App(one["app_id"], one["app_slug"]))
    has = one.get("permissions", {})
    lacking = [name for name, level in PERMISSIONS.items() if has.get(name) not in (level, "write")]
    beyond = [name for name in has if name not in PERMISSIONS]
    if lacking:
        yield fault(
            AREA, "App: permissions", f"{one['app_slug']} lacks {', '.join(lacking)}",
            "grant contents: write and pull requests: write, and accept them at the installation",
        )  # fmt: skip
    elif beyond:
        yield fault(
            AREA, "App: permissions",
            f"{one['app_slug']} has {', '.join(beyond)} too, which no workflow needs",
            "take them away in the App's settings",
        )  # fmt: skip
    else:
        yield ok(AREA, "App: permissions", f"{one['app_slug']}: {', '.join(sorted(has))}")
    if one.get("repository_selection") == "all":
        yield fault(
            AREA, "App: repositories", "its key opens every repository of the organisation",
            "install it for selected repositories only",
        )  # fmt: skip
