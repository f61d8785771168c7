"""`release doctor`: a set-up that is right has no fault, and each thing that is broken has one."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import pytest
from botocore.loaders import create_loader
from moto import mock_aws

from release.doctor.trust import AUDIENCE, ISSUER
from tests.documented import block
from tests.release.conftest import Answer, World

REPOSITORY = "team/serving"
ENVIRONMENTS = ("dev", "prod", "stage", "rollback")
HOST = "123456789012.dkr.ecr.ap-northeast-2.amazonaws.com"
Paths = dict[str, Any]


def role(name: str) -> str:
    return f"arn:aws:iam::123456789012:role/{name}"


def reviewed(*reviewers: str) -> dict[str, Any]:
    """A rule of an environment, as GitHub's API has it."""
    named = [{"type": "User", "reviewer": {"login": one}} for one in reviewers or ("kim",)]
    return {"type": "required_reviewers", "reviewers": named}


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
        at: {
            "permissions": {"admin": True},
            "owner": {"login": "team", "type": "Organization"},
            "default_branch": "main",
        },
        f"{at}/environments": {"environments": [{"name": name} for name in ENVIRONMENTS]},
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
        reviewers = [reviewed()] if name == "prod" else []
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
            asked = urlsplit(self.path).path
            found = paths.get(asked.replace("/your-organisation/slipway", f"/{REPOSITORY}"))
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


PROVIDER = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"
EQUALS, LIKE = "StringEquals", "StringLike"


def trust(*subjects: str, like: bool = False, **more: Any) -> str:
    """A trust policy; ``more`` stands in place of what is right in its statement."""
    condition: dict[str, dict[str, Any]] = {EQUALS: {f"{ISSUER}:aud": AUDIENCE}}
    if subjects:
        condition.setdefault(LIKE if like else EQUALS, {})[f"{ISSUER}:sub"] = list(subjects)
    statement = {
        "Effect": "Allow",
        "Principal": {"Federated": PROVIDER},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": condition,
        **more,
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


DEPLOY = tuple(f"repo:{REPOSITORY}:environment:{name}" for name in ENVIRONMENTS)


@pytest.fixture(scope="module")
def descriptions() -> Iterator[None]:
    """botocore's descriptions of AWS's services, read once: a session reads megabytes of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(create_loader))
        yield


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, world: World, descriptions: None) -> Iterator[None]:
    """Roles and repositories as docs/bootstrap.md makes them, in moto."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    world.push({"apps/proxy/pyproject.toml": '[project]\nname = "slipway-proxy"\n'})
    with mock_aws():
        iam = boto3.client("iam")
        iam.create_open_id_connect_provider(Url=f"https://{ISSUER}", ClientIDList=[AUDIENCE])
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


@pytest.mark.usefixtures("github", "no_account")
def test_the_commands_of_the_page_run_as_written(world: World, tmp_path: Path) -> None:
    """`gh` alone is not the real one: it would ask GitHub who is logged in here."""
    (tmp_path / "gh").write_text('#!/bin/sh\ntest "$*" = "auth token" && echo a-token\n')
    (tmp_path / "gh").chmod(0o755)
    commands = block("docs/bootstrap.md", containing="gh auth token").text
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], capture_output=True, text=True, check=False,
        env={**os.environ, **world.environment, "MANIFEST_REPO": str(world.remote), "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "your-organisation/slipway answers" in done.stdout
    assert "0 fault" in done.stdout


def put(path: str, value: Any) -> Callable[[Paths], None]:
    def change(paths: Paths) -> None:
        paths[f"/repos/{REPOSITORY}{path}"] = value

    return change


def edit(path: str, change: Callable[[Any], Any]) -> Callable[[Paths], None]:
    def changed(paths: Paths) -> None:
        change(paths[path if path.startswith("/orgs") else f"/repos/{REPOSITORY}{path}"])

    return changed


KEY = {"secrets": [{"name": "RELEASE_APP_KEY"}]}


def holds_the_key(name: str, policy: Any) -> Callable[[Paths], None]:
    """Another environment that has the App's key."""

    def change(paths: Paths) -> None:
        at = f"/repos/{REPOSITORY}/environments"
        environment = {"name": name, "deployment_branch_policy": policy}
        paths[at]["environments"].append(environment)
        paths[f"{at}/{name}"] = environment
        paths[f"{at}/{name}/secrets"] = KEY

    return change


def another_ruleset(target: str = "branch", **what: Any) -> Callable[[Paths], None]:
    """A second active ruleset, of main and without a bypass unless ``what`` says otherwise."""

    def change(paths: Paths) -> None:
        at = f"/repos/{REPOSITORY}/rulesets"
        paths[at].append({"id": 8, "target": target, "enforcement": "active"})
        paths[f"{at}/8"] = {
            "name": "second",
            "conditions": {"ref_name": {"include": ["~ALL"], "exclude": []}},
            "bypass_actors": [],
            **what,
        }

    return change


PROTECTION = "/branches/main/protection"
INSTALLED = "/orgs/team/installations"
FAULTS: dict[str, tuple[Callable[[Paths], Any], str, str]] = {
    "key at the repository": (
        put("/actions/secrets", KEY), "RELEASE_APP_KEY of the repository", "gh secret delete"),
    "key at the organisation": (
        put("/actions/organization-secrets", KEY), "RELEASE_APP_KEY of the organisation",
        "gh secret delete"),
    "key with Dependabot": (
        put("/dependabot/secrets", KEY), "RELEASE_APP_KEY of Dependabot", "--app dependabot"),
    "key with Codespaces": (
        put("/codespaces/secrets", KEY), "RELEASE_APP_KEY of Codespaces", "--app codespaces"),
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
            reviewed())),
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
    "the App may only merge past the ruleset": (
        edit("/rulesets/7", lambda r: r["bypass_actors"][0].update(bypass_mode="pull_request")),
        "ruleset main", "to `always`"),
    "another App may pass the ruleset": (
        edit("/rulesets/7", lambda r: r["bypass_actors"][0].update(actor_id=43)),
        "ruleset main", "bypass list"),
    "nobody approves what goes to prod": (
        edit("/environments/prod", lambda e: e["protection_rules"].pop()),
        "environment prod: reviewers", "Required reviewers"),
    "the reviewers of prod are nobody": (
        edit("/environments/prod", lambda e: e["protection_rules"][-1].update(reviewers=[])),
        "environment prod: reviewers", "Required reviewers"),
    "the key in another environment, open to every branch": (
        holds_the_key("preview", None), "environment preview: RELEASE_APP_KEY",
        "gh secret delete RELEASE_APP_KEY --env preview"),
    "the key in another environment, open to protected branches": (
        holds_the_key("docs", {"protected_branches": True}), "environment docs: RELEASE_APP_KEY",
        "gh secret delete RELEASE_APP_KEY --env docs"),
    **{f"a second ruleset with {kind}": (
        another_ruleset(rules=[{"type": kind}]), "ruleset second", "bypass list")
       for kind in ("required_signatures", "update", "commit_message_pattern", "workflows",
                    "code_scanning", "required_deployments", "merge_queue", "a_rule_to_come")},
    "a ruleset whose pattern means main": (
        edit("/rulesets/7", lambda r: (
            r["conditions"]["ref_name"].update(include=["refs/heads/m*"]),
            r["bypass_actors"].clear())),
        "ruleset main", "bypass list"),
    "a ruleset that leaves main out by a pattern": (
        edit("/rulesets/7", lambda r: r["conditions"]["ref_name"].update(
            include=["~ALL"], exclude=["refs/heads/ma?n"])),
        "rules of main: people", "requires a pull request"),
    "a ruleset of a default branch that is another": (
        edit("", lambda r: r.update(default_branch="trunk")),
        "rules of main: people", "requires a pull request"),
    "classic protection asks the App for a pull request": (
        put(PROTECTION, {"required_pull_request_reviews": {
            "bypass_pull_request_allowances": {"users": [], "teams": [],
                                               "apps": [{"slug": "another"}]}}}),
        "protection of main", "delete the rule"),
    "classic protection requires a check": (
        put(PROTECTION, {"required_status_checks": {"strict": True, "contexts": ["gate"],
                                                    "checks": [{"context": "gate"}]}}),
        "protection of main", "delete the rule"),
    "classic protection lets others push": (
        put(PROTECTION, {"restrictions": {"users": [], "teams": [{"slug": "ops"}], "apps": []}}),
        "protection of main", "delete the rule"),
    "classic protection requires signatures": (
        put(PROTECTION, {"required_signatures": {"enabled": True}}),
        "protection of main", "delete the rule"),
    "classic protection locks the branch": (
        put(PROTECTION, {"lock_branch": {"enabled": True}}),
        "protection of main", "delete the rule"),
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


@pytest.mark.usefixtures("no_account")
@pytest.mark.parametrize("change", [
    edit("/rulesets/7", lambda r: r["bypass_actors"][0].update(bypass_mode="exempt")),
    another_ruleset(rules=[{"type": "deletion"}, {"type": "non_fast_forward"}]),
    another_ruleset(rules=[{"type": "update"}], conditions={
        "ref_name": {"include": ["refs/heads/release/*"], "exclude": []}}),
    another_ruleset(target="tag", rules=[{"type": "update"}]),
    put(PROTECTION, {
        "required_pull_request_reviews": {"bypass_pull_request_allowances": {
            "users": [], "teams": [], "apps": [{"slug": "serving-release"}]}},
        "restrictions": {"users": [], "teams": [], "apps": [{"slug": "serving-release"}]},
        "required_signatures": {"enabled": False}, "enforce_admins": {"enabled": True},
        "required_conversation_resolution": {"enabled": True}}),
])  # fmt: skip
def test_what_does_not_stop_the_app_is_no_fault(
    world: World, github: Paths, change: Callable[[Paths], None]
) -> None:
    change(github)
    answer = world.run("doctor", "--json")
    assert of_state(answer, "fault") == [], answer.out
    assert "rules of main: the App" in of_state(answer, "ok")


@pytest.mark.usefixtures("no_account")
def test_rules_of_files_that_may_stop_the_app_are_unknown(world: World, github: Paths) -> None:
    """A push ruleset is about files: which of them it refuses is known when one is pushed."""
    another_ruleset(target="push", conditions=None, rules=[{"type": "file_path_restriction"}])(
        github
    )
    answer = world.run("doctor", "--json")
    assert of_state(answer, "fault") == []
    assert "ruleset second" in of_state(answer, "unknown")


MAIN = f"repo:{REPOSITORY}:ref:refs/heads/main"


def build(*subjects: str, like: bool = False, **more: Any) -> Callable[[Any, Any], object]:
    """The trust policy of the role that builds is another."""
    document = trust(*subjects, like=like, **more)
    return lambda iam, _: iam.update_assume_role_policy(RoleName="build", PolicyDocument=document)


def audience(*values: str) -> dict[str, Any]:
    return {EQUALS: {f"{ISSUER}:aud": list(values), f"{ISSUER}:sub": MAIN}}


def forget_audience(iam: Any, _: Any) -> None:
    iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=PROVIDER)
    iam.create_open_id_connect_provider(Url=f"https://{ISSUER}", ClientIDList=["https://x.invalid"])


AWS_FAULTS: dict[str, tuple[Callable[[Any, Any], object], str, str]] = {
    "a rollback's role is not trusted": (
        lambda iam, _: iam.update_assume_role_policy(
            RoleName="deploy", PolicyDocument=trust(*DEPLOY[:-1])),
        "AWS_DEPLOY_ROLE: trust", "environment:rollback"),
    "any branch may assume a role": (
        lambda iam, _: iam.update_assume_role_policy(
            RoleName="build", PolicyDocument=trust(
                f"repo:{REPOSITORY}:*", f"repo:{REPOSITORY}:ref:refs/heads/main", like=True)),
        "AWS_BUILD_ROLE: trust", "trusts repo:team/serving:*"),
    "any repository may assume a role": (
        lambda iam, _: iam.update_assume_role_policy(RoleName="model", PolicyDocument=trust()),
        "AWS_MODEL_ROLE: trust", "trusts *"),
    "every repository of the organisation may assume a role": (
        build("repo:team/*", like=True), "AWS_BUILD_ROLE: trust", "trusts repo:team/*"),
    "another repository may assume a role": (
        build(MAIN, "repo:other/fork:ref:refs/heads/main"), "AWS_BUILD_ROLE: trust",
        "trusts repo:other/fork"),
    "anything but one subject may assume a role": (
        build(Condition={EQUALS: {f"{ISSUER}:aud": AUDIENCE},
                         "StringNotEquals": {f"{ISSUER}:sub": "repo:x/y:*"}}),
        "AWS_BUILD_ROLE: trust", "trusts *"),
    "a wildcard where none is one": (
        build(f"repo:{REPOSITORY}:ref:refs/heads/ma*"), "AWS_BUILD_ROLE: trust",
        "does not trust repo:team/serving:ref:refs/heads/main"),
    "no audience": (
        build(Condition={EQUALS: {f"{ISSUER}:sub": MAIN}}), "AWS_BUILD_ROLE: trust",
        "asks for no audience"),
    "another audience": (
        build(Condition=audience("https://github.com/team")), "AWS_BUILD_ROLE: trust",
        "wants the audience https://github.com/team"),
    "another audience too": (
        build(Condition=audience(AUDIENCE, "https://github.com/team")), "AWS_BUILD_ROLE: trust",
        "takes the audiences"),
    "the provider of another account": (
        build(MAIN, Principal={"Federated": PROVIDER.replace("123456789012", "999999999999")}),
        "AWS_BUILD_ROLE: trust", "it names arn:aws:iam::999999999999"),
    "another action": (
        build(MAIN, Action="sts:AssumeRole"), "AWS_BUILD_ROLE: trust", "does not trust"),
    "no provider": (
        lambda iam, _: iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=PROVIDER),
        "OIDC provider", "create-open-id-connect-provider"),
    "a provider without the audience": (
        forget_audience, "OIDC provider", "add-client-id-to-open-id-connect-provider"),
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
    assert set(of_state(answer, "fault")) == {check}, answer.out
    assert says in answer.out
    assert answer.code == 6


@pytest.mark.usefixtures("github", "aws")
def test_one_role_for_all_workflows_is_no_fault(world: World, github: Paths) -> None:
    """Its policy in other forms: one statement, lists, other case, StringLike without wildcards."""
    document = json.loads(trust())
    [statement] = document["Statement"]
    statement["Principal"]["Federated"] = [PROVIDER]
    statement["Action"] = ["sts:AssumeRoleWithWebIdentity", "sts:TagSession"]
    statement["Condition"] = {
        "ForAnyValue:StringLike": {f"{ISSUER}:Sub": [MAIN, *DEPLOY]},
        "StringEqualsIgnoreCase": {f"{ISSUER}:AUD": [AUDIENCE]},
    }
    document["Statement"] = statement
    boto3.client("iam").update_assume_role_policy(
        RoleName="build", PolicyDocument=json.dumps(document)
    )
    for one in github[f"/repos/{REPOSITORY}/actions/variables"]["variables"]:
        if one["name"] in ("AWS_DEPLOY_ROLE", "AWS_MODEL_ROLE"):
            one["value"] = role("build")
    answer = world.run("doctor", "--json")
    assert of_state(answer, "fault") == [], answer.out


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
