"""`release doctor`: a set-up that is right has no fault, and each thing that is broken has one."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from moto import mock_aws

from release.doctor.aws import ISSUER
from tests.release.conftest import Answer, World

REPOSITORY = "team/serving"
ENVIRONMENTS = ("dev", "prod", "stage", "rollback")
HOST = "123456789012.dkr.ecr.ap-northeast-2.amazonaws.com"
Paths = dict[str, Any]


def role(name: str) -> str:
    return f"arn:aws:iam::123456789012:role/{name}"


def right() -> Paths:
    """A repository as docs/bootstrap.md sets it up, in the shapes of GitHub's API."""
    at = f"/repos/{REPOSITORY}"
    variables = {
        "IMAGE_REGISTRY": f"{HOST}/slipway",
        "AWS_REGION": "ap-northeast-2",
        "AWS_BUILD_ROLE": role("build"),
        "AWS_DEPLOY_ROLE": role("deploy"),
        "AWS_MODEL_ROLE": role("model"),
        "RELEASE_APP_CLIENT_ID": "Iv1.app",
        **{f"CLUSTER_{name.upper()}": f"serving-{name}" for name in ENVIRONMENTS[:3]},
    }
    paths: Paths = {
        at: {"permissions": {"admin": True}, "owner": {"login": "team", "type": "Organization"}},
        f"{at}/actions/variables": {
            "variables": [{"name": name, "value": value} for name, value in variables.items()]
        },
        f"{at}/actions/secrets": {"secrets": []},
        f"{at}/actions/organization-secrets": {"secrets": []},
        "/orgs/team/installations": {
            "installations": [
                {
                    "id": 1,
                    "app_id": 42,
                    "client_id": "Iv1.app",
                    "app_slug": "serving-release",
                    "repository_selection": "selected",
                    "permissions": {
                        "contents": "write", "pull_requests": "write", "metadata": "read",
                    },
                }
            ]
        },
        f"{at}/rulesets": [{"id": 7, "target": "branch", "enforcement": "active"}],
        f"{at}/rulesets/7": {
            "name": "main",
            "conditions": {"ref_name": {"include": ["~DEFAULT_BRANCH"], "exclude": []}},
            "rules": [
                {"type": "pull_request", "parameters": {}},
                {
                    "type": "required_status_checks",
                    "parameters": {"required_status_checks": [{"context": "gate"}]},
                },
            ],
            "bypass_actors": [
                {"actor_id": 42, "actor_type": "Integration", "bypass_mode": "always"}
            ],
        },
    }  # fmt: skip
    for name in ENVIRONMENTS:
        path = f"{at}/environments/{name}"
        reviewers = [{"type": "required_reviewers"}] if name == "prod" else []
        paths[path] = {
            "protection_rules": [{"type": "branch_policy"}, *reviewers],
            "deployment_branch_policy": {"custom_branch_policies": True},
        }
        paths[f"{path}/deployment-branch-policies"] = {
            "branch_policies": [{"name": "main", "type": "branch"}]
        }
        paths[f"{path}/secrets"] = {"secrets": [{"name": "RELEASE_APP_KEY"}]}
    return paths


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    """GitHub's API over a table of paths; whatever is taken out of it is a 404."""
    paths = right()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = paths.get(urlsplit(self.path).path)
            content = json.dumps(found if found is not None else {"message": "Not Found"}).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
    monkeypatch.setenv("GITHUB_TOKEN", "a-token")
    monkeypatch.delenv("MANIFEST_TOKEN", raising=False)
    yield paths
    server.shutdown()
    thread.join()
    server.server_close()


def trust(*subjects: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {f"{ISSUER}:sub": list(subjects)}} if subjects else {},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


DEPLOY = tuple(f"repo:{REPOSITORY}:environment:{name}" for name in ENVIRONMENTS)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, world: World) -> Iterator[None]:
    """Roles and repositories as docs/bootstrap.md makes them, in moto."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    world.push({"apps/proxy/pyproject.toml": '[project]\nname = "slipway-proxy"\n'})
    with mock_aws():
        iam = boto3.client("iam")
        for name, subjects in {
            "build": (f"repo:{REPOSITORY}:ref:refs/heads/main",),
            "deploy": DEPLOY,
            "model": (f"repo:{REPOSITORY}:environment:dev",),
        }.items():
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(*subjects))
        made = world.run("registry", "create", "--image-registry", f"{HOST}/slipway", "--json")
        assert made.json["repositories"] == {f"{HOST}/slipway/proxy": "created"}
        yield


def of_state(answer: Answer, state: str) -> list[str]:
    return [check["name"] for check in answer.json["checks"] if check["state"] == state]


@pytest.mark.usefixtures("github", "aws")
def test_nothing_is_wrong_with_a_set_up_as_documented(world: World) -> None:
    answer = world.run("doctor", "--json")
    assert of_state(answer, "fault") == [], answer.out
    assert of_state(answer, "unknown") == []
    assert answer.code == 0
    assert "0 fault, 0 unknown" in world.run("doctor").out


def put(path: str, value: Any) -> Callable[[Paths], None]:
    def change(paths: Paths) -> None:
        paths[f"/repos/{REPOSITORY}{path}"] = value

    return change


def edit(path: str, change: Callable[[Any], Any]) -> Callable[[Paths], None]:
    def changed(paths: Paths) -> None:
        change(paths[path if path.startswith("/orgs") else f"/repos/{REPOSITORY}{path}"])

    return changed


KEY = {"secrets": [{"name": "RELEASE_APP_KEY"}]}
INSTALLED = "/orgs/team/installations"
FAULTS: dict[str, tuple[Callable[[Paths], Any], str, str]] = {
    "key at the repository": (
        put("/actions/secrets", KEY), "RELEASE_APP_KEY of the repository", "gh secret delete"),
    "key at the organisation": (
        put("/actions/organization-secrets", KEY), "RELEASE_APP_KEY of the organisation",
        "gh secret delete"),
    "no variable": (
        edit("/actions/variables", lambda v: v["variables"].pop(1)), "variable AWS_REGION",
        "gh variable set AWS_REGION"),
    "no environment": (
        put("/environments/rollback", None), "environment rollback", "gh api --method PUT"),
    "every branch deploys": (
        edit("/environments/prod", lambda e: e.update(deployment_branch_policy=None)),
        "environment prod: branches", "selected, main"),
    "protected branches deploy": (
        edit("/environments/prod", lambda e: e.update(
            deployment_branch_policy={"protected_branches": True})),
        "environment prod: branches", "selected, main"),
    "another branch deploys too": (
        edit("/environments/dev/deployment-branch-policies", lambda p: p["branch_policies"].append(
            {"name": "feature/*", "type": "branch"})),
        "environment dev: branches", "selected, main"),
    "a tag called main deploys": (
        edit("/environments/dev/deployment-branch-policies", lambda p: p["branch_policies"][0]
             .update(type="tag")),
        "environment dev: branches", "selected, main"),
    "no key in an environment": (
        put("/environments/stage/secrets", {"secrets": []}),
        "environment stage: RELEASE_APP_KEY", "gh secret set RELEASE_APP_KEY --env stage"),
    "a rollback waits for somebody": (
        edit("/environments/rollback", lambda e: e["protection_rules"].append(
            {"type": "required_reviewers"})),
        "environment rollback: reviewers", "no required reviewers"),
    "no App": (
        edit(INSTALLED, lambda i: i["installations"].clear()), "App", "install it"),
    "the App cannot open pull requests": (
        edit(INSTALLED, lambda i: i["installations"][0]["permissions"].pop("pull_requests")),
        "App: permissions", "grant"),
    "the App may do more": (
        edit(INSTALLED, lambda i: i["installations"][0]["permissions"].update(
            administration="write")),
        "App: permissions", "take them away"),
    "the App reaches every repository": (
        edit(INSTALLED, lambda i: i["installations"][0].update(repository_selection="all")),
        "App: repositories", "selected repositories"),
    "the ruleset stops the App": (
        edit("/rulesets/7", lambda r: r["bypass_actors"].clear()), "ruleset main", "bypass list"),
    "people push to main": (
        edit("/rulesets/7", lambda r: r["rules"].pop(0)), "rules of main: people",
        "requires a pull request"),
    "ci is not required": (
        edit("/rulesets/7", lambda r: r["rules"].pop(1)), "rules of main: checks", "`gate`"),
    "the ruleset is about other branches": (
        edit("/rulesets/7", lambda r: r["conditions"]["ref_name"].update(include=["refs/heads/x"])),
        "rules of main: people", "requires a pull request"),
}  # fmt: skip


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """No AWS credentials anywhere: whoever has only GitHub to look at is not kept waiting."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")


@pytest.mark.usefixtures("no_account")
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_fix(world: World, github: Paths, name: str) -> None:
    change, check, fix = FAULTS[name]
    before = copy.deepcopy(github)
    change(github)
    assert github != before
    answer = world.run("doctor", "--json")
    assert check in of_state(answer, "fault"), answer.out
    assert len(of_state(answer, "fault")) <= 2, answer.out
    [found] = [one for one in answer.json["checks"] if one["name"] == check]
    assert fix in found["fix"]
    assert answer.code == 6


AWS_FAULTS: dict[str, tuple[Callable[[Any, Any], object], str, str]] = {
    "a rollback's role is not trusted": (
        lambda iam, _: iam.update_assume_role_policy(
            RoleName="deploy", PolicyDocument=trust(*DEPLOY[:-1])),
        "AWS_DEPLOY_ROLE: trust", "environment:rollback"),
    "any branch may assume a role": (
        lambda iam, _: iam.update_assume_role_policy(
            RoleName="build", PolicyDocument=trust(f"repo:{REPOSITORY}:*",
                                                   f"repo:{REPOSITORY}:ref:refs/heads/main")),
        "AWS_BUILD_ROLE: trust", "trusts repo:team/serving:*"),
    "any repository may assume a role": (
        lambda iam, _: iam.update_assume_role_policy(RoleName="model", PolicyDocument=trust()),
        "AWS_MODEL_ROLE: trust", "trusts *"),
    "no role": (lambda iam, _: iam.delete_role(RoleName="model"), "AWS_MODEL_ROLE", "no role"),
    "no repository": (
        lambda _, ecr: ecr.delete_repository(repositoryName="slipway/proxy"),
        "repository slipway/proxy", "does not exist"),
    "tags can be moved": (
        lambda _, ecr: ecr.put_image_tag_mutability(
            repositoryName="slipway/proxy", imageTagMutability="MUTABLE"),
        "repository slipway/proxy", "tags can be moved"),
    "nothing is scanned": (
        lambda _, ecr: ecr.put_image_scanning_configuration(
            repositoryName="slipway/proxy", imageScanningConfiguration={"scanOnPush": False}),
        "repository slipway/proxy", "not scanned"),
}  # fmt: skip


@pytest.mark.usefixtures("github", "aws")
@pytest.mark.parametrize("name", AWS_FAULTS)
def test_each_fault_in_the_account_is_named(world: World, name: str) -> None:
    change, check, says = AWS_FAULTS[name]
    change(boto3.client("iam"), boto3.client("ecr", region_name="ap-northeast-2"))
    answer = world.run("doctor", "--json")
    assert of_state(answer, "fault") == [check], answer.out
    assert says in answer.out
    assert answer.code == 6


@pytest.mark.usefixtures("aws")
def test_registry_create_sets_right_what_is_there_and_leaves_what_is_right(world: World) -> None:
    command = ("registry", "create", "--image-registry", f"{HOST}/slipway", "--json")
    name = f"{HOST}/slipway/proxy"
    assert world.run(*command).json["repositories"] == {name: "kept"}
    ecr = boto3.client("ecr", region_name="ap-northeast-2")
    ecr.put_image_tag_mutability(repositoryName="slipway/proxy", imageTagMutability="MUTABLE")
    assert world.run(*command, "--dry-run").json["repositories"] == {name: "changed"}
    assert world.run(*command).json["repositories"] == {name: "changed"}
    assert world.run(*command).json["repositories"] == {name: "kept"}


@pytest.mark.usefixtures("no_account")
def test_what_cannot_be_looked_at_is_unknown_and_said(world: World, github: Paths) -> None:
    """No AWS credentials, a token that is no administrator's: neither right nor wrong."""
    github[f"/repos/{REPOSITORY}"]["permissions"] = {"admin": False}
    del github[f"/repos/{REPOSITORY}/actions/secrets"]
    del github[f"/repos/{REPOSITORY}/rulesets/7"]["bypass_actors"]
    answer = world.run("doctor", "--json")
    assert of_state(answer, "unknown") == ["token", "secrets", "ruleset main", "credentials"]
    assert of_state(answer, "fault") == []
    assert answer.code == 0
    assert "aws sso login" in world.run("doctor").out


def test_without_a_token_the_doctor_says_how_to_give_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_REPOSITORY", "GITHUB_TOKEN", "MANIFEST_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    answer = world.run("doctor", "--json")
    [check] = answer.json["checks"]
    assert check["state"] == "unknown"
    assert "gh auth token" in check["fix"]
