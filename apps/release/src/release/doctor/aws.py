"""AWS: the roles that workflows assume, and the registry that they push to."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from release.doctor.checks import Check, fault, guarded, ok, unknown
from release.registry import REPOSITORY_SETTINGS, ecr_host, split

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

AREA = "AWS"
ISSUER = "token.actions.githubusercontent.com"


def subjects(repository: str, environments: Sequence[str], branch: str) -> dict[str, list[str]]:
    """The `sub` of each role's tokens, by the variable that names the role.

    Source: GitHub's "OpenID Connect reference": a job with an environment has its name in the
    subject, any other the ref.
    """
    named = [f"repo:{repository}:environment:{one}" for one in (*environments, "rollback")]
    return {
        "AWS_BUILD_ROLE": [f"repo:{repository}:ref:refs/heads/{branch}"],
        "AWS_DEPLOY_ROLE": named,
        "AWS_MODEL_ROLE": [f"repo:{repository}:environment:dev"],  # as model.yaml says
    }


def checks(
    variables: Mapping[str, str],
    wanted: Mapping[str, Sequence[str]],
    repositories: Sequence[str],
) -> Iterator[Check]:
    """Each role that a variable names, and each image's repository in the registry.

    ``wanted`` maps variables to the subjects that must be trusted; ``repositories`` are images'
    (host and name). Without AWS credentials every check is ``unknown``, and says so.
    """
    import boto3  # a second of import time that only this needs  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    session = boto3.Session()
    if session.get_credentials() is None:
        yield unknown(
            AREA, "credentials", "there are none, so roles and registry were not looked at",
            "log in (`aws sso login`) as somebody who may read IAM and ECR, and run this again",
        )  # fmt: skip
        return
    iam: Any = session.client("iam", region_name="us-east-1")

    def asked(look: Iterable[Check], name: str) -> Iterator[Check]:
        try:
            yield from guarded(AREA, name, lambda: look)
        except (ClientError, BotoCoreError) as error:
            yield unknown(AREA, name, f"AWS refuses to say: {error}", "log in as somebody who may")

    for variable, needed in wanted.items():
        yield from asked(_role(iam, variable, variables.get(variable, ""), needed), variable)
    for repository in repositories:
        host, name = split(repository)
        ecr = ecr_host(host)
        if ecr is None:
            yield ok(AREA, f"repository {repository}", "is in a registry that makes them on push")
            continue
        client: ECRClient = session.client("ecr", region_name=ecr["region"])
        yield from asked(_repository(client, ecr["account"], name), f"repository {name}")


def _role(iam: Any, variable: str, arn: str, needed: Sequence[str]) -> Iterable[Check]:
    if not (match := re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/(?:.*/)?([^/]+)", arn)):
        yield fault(
            AREA, variable, f"{arn or 'is not set, and'} names no role",
            f"gh variable set {variable} --body arn:aws:iam::ACCOUNT:role/NAME",
        )  # fmt: skip
        return
    try:
        role = iam.get_role(RoleName=match[1])["Role"]
    except iam.exceptions.NoSuchEntityException:
        yield fault(AREA, variable, f"there is no role {match[1]}", "make it (docs/bootstrap.md)")
        return
    policy: Any = role["AssumeRolePolicyDocument"]
    trusted = list(_trusted(policy))
    lacking = [one for one in needed if not any(_matches(one, t) for t in trusted)]
    if lacking:
        yield fault(
            AREA, f"{variable}: trust", f"{match[1]} does not trust {', '.join(lacking)}",
            f"add them to the condition {ISSUER}:sub of its trust policy",
        )  # fmt: skip
    loose = [one for one in trusted if _reaches_beyond(one, needed)]
    if loose:
        yield fault(
            AREA, f"{variable}: trust", f"{match[1]} trusts {', '.join(loose)}",
            "name the subjects that the workflows have, without `*`: " + ", ".join(needed),
        )  # fmt: skip
    if not lacking and not loose:
        yield ok(AREA, f"{variable}: trust", f"{match[1]} trusts {', '.join(needed)}")


def _trusted(policy: Mapping[str, Any]) -> Iterator[str]:
    """Subjects that may assume a role by GitHub's tokens; ``*`` where it asks for none."""
    for statement in policy.get("Statement", []):
        provider = str(statement.get("Principal", {}).get("Federated", ""))
        if statement.get("Effect") != "Allow" or not provider.endswith(ISSUER):
            continue
        said: list[str] = []
        for operator in ("StringEquals", "StringLike"):
            value = statement.get("Condition", {}).get(operator, {}).get(f"{ISSUER}:sub", [])
            said += [value] if isinstance(value, str) else value
        yield from said or ["*"]


def _matches(subject: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(subject, pattern)


def _reaches_beyond(pattern: str, needed: Sequence[str]) -> bool:
    """Whether a pattern lets in more than what is needed: another branch, or a pull request."""
    return pattern not in needed and ("*" in pattern or "?" in pattern)


def _repository(ecr: ECRClient, account: str, name: str) -> Iterable[Check]:
    title = f"repository {name}"
    fix = "`release registry create` makes it, or sets it right"
    try:
        [found] = ecr.describe_repositories(registryId=account, repositoryNames=[name])[
            "repositories"
        ]
    except ecr.exceptions.RepositoryNotFoundException:
        yield fault(AREA, title, "does not exist, and ECR makes none on push", fix)
        return
    said = {
        "imageTagMutability": "its tags can be moved",
        "imageScanningConfiguration": "images are not scanned on push",
    }
    wrong = [said[key] for key, value in REPOSITORY_SETTINGS.items() if found.get(key) != value]
    yield (
        fault(AREA, title, " and ".join(wrong), fix)
        if wrong
        else ok(AREA, title, "tags are immutable, images are scanned")
    )
