"""AWS: the roles that workflows assume, and the registry that they push to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from release.doctor.results import Check, fault, guarded, ok, unknown
from release.doctor.trust import AUDIENCE, ISSUER, Statement, opens_to_all, statements
from release.registry.client import REPOSITORY_SETTINGS, ecr_host, split

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

AREA = "AWS"


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

    yield from asked(_provider(iam), "OIDC provider")
    for variable, needed in wanted.items():
        arn = variables.get(variable, "")
        # One role may serve several workflows: what another of them needs is not too much.
        all_needed = {
            one for name, some in wanted.items() if variables.get(name, "") == arn for one in some
        }
        yield from asked(_role(iam, variable, arn, needed, sorted(all_needed)), variable)
    clients: dict[str, ECRClient] = {}
    for repository in repositories:
        host, name = split(repository)
        ecr = ecr_host(host)
        if ecr is None:
            yield ok(AREA, f"repository {repository}", "is in a registry that makes them on push")
            continue
        if (region := ecr["region"]) not in clients:
            clients[region] = session.client("ecr", region_name=region)
        client = clients[region]
        yield from asked(_repository(client, ecr["account"], name), f"repository {name}")


def _provider(iam: Any) -> Iterable[Check]:
    """GitHub's OIDC provider: there, and made for the audience that the workflows ask for."""
    title = "OIDC provider"
    arns = [one["Arn"] for one in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]]
    ours = [arn for arn in arns if arn.endswith(f"oidc-provider/{ISSUER}")]
    if not ours:
        yield fault(
            AREA, title, f"there is none for {ISSUER}, so no workflow can assume a role",
            f"aws iam create-open-id-connect-provider --url https://{ISSUER} "
            f"--client-id-list {AUDIENCE}",
        )  # fmt: skip
        return
    provider = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=ours[0])
    audiences = provider.get("ClientIDList", [])
    if AUDIENCE not in audiences:
        yield fault(
            AREA, title, f"{ours[0]} has the audiences {', '.join(audiences) or 'none'}, "
            f"and the workflows' tokens have {AUDIENCE}",
            "aws iam add-client-id-to-open-id-connect-provider "
            f"--open-id-connect-provider-arn {ours[0]} --client-id {AUDIENCE}",
        )  # fmt: skip
        return
    yield ok(AREA, title, f"{ours[0]}, audience {AUDIENCE}")


def _role(
    iam: Any, variable: str, arn: str, needed: Sequence[str], all_needed: Sequence[str]
) -> Iterable[Check]:
    """A role's trust: ``needed`` by this variable's workflows, ``all_needed`` by all it serves."""
    found = re.fullmatch(r"arn:(aws[a-z-]*):iam::(\d{12}):role/(?:.*/)?([^/]+)", arn)
    if found is None:
        yield fault(
            AREA, variable, f"{arn or 'is not set, and'} names no role",
            f"gh variable set {variable} --body arn:aws:iam::ACCOUNT:role/NAME",
        )  # fmt: skip
        return
    partition, account, name = found.groups()
    try:
        role = iam.get_role(RoleName=name)["Role"]
    except iam.exceptions.NoSuchEntityException:
        yield fault(AREA, variable, f"there is no role {name}", "make it (docs/bootstrap.md)")
        return
    policy: Any = role["AssumeRolePolicyDocument"]
    trusting = statements(policy)
    provider = f"arn:{partition}:iam::{account}:oidc-provider/{ISSUER}"
    title, wrong = f"{variable}: trust", False
    for found_wrong, fix in (
        (_lacking(trusting, needed, provider), f"add them to the condition {ISSUER}:sub of its "
         f"trust policy, which names {provider} as Federated and {AUDIENCE} as {ISSUER}:aud"),
        (_loose(trusting, all_needed), "name the subjects that the workflows have, without `*`: "
         + ", ".join(all_needed)),
        (_any_audience(trusting), f'add "{ISSUER}:aud": "{AUDIENCE}" to the condition '
         "StringEquals of its trust policy"),
        (["lets in every AWS account"] if opens_to_all(policy) else [],
         "take the statement whose Principal is `*` out of its trust policy"),
    ):  # fmt: skip
        if found_wrong:
            wrong = True
            yield fault(AREA, title, f"{name} {'; '.join(found_wrong)}", fix)
    if not wrong:
        yield ok(AREA, title, f"{name} trusts {', '.join(needed)}")


def _lacking(trusting: Sequence[Statement], needed: Sequence[str], provider: str) -> list[str]:
    lacking = [
        one
        for one in needed
        if not any(each.trusts(one) and provider in each.providers for each in trusting)
    ]
    if not lacking:
        return []
    others = sorted({name for each in trusting for name in each.providers} - {provider})
    by = f" by the provider {provider} (it names {', '.join(others)})" if others else ""
    refused = sorted(
        {value for each in trusting for one in each.audiences if not one.take(AUDIENCE)
         for value in one.values}
    )  # fmt: skip
    with_audience = f", for it wants the audience {', '.join(refused)}" if refused else ""
    return [f"does not trust {', '.join(lacking)}{by}{with_audience}"]


def _loose(trusting: Sequence[Statement], all_needed: Sequence[str]) -> list[str]:
    loose = [one for each in trusting for one in each.beyond(all_needed)]
    return [f"trusts {', '.join(loose)}"] if loose else []


def _any_audience(trusting: Sequence[Statement]) -> list[str]:
    for each in trusting:
        if not each.audiences:
            return ["asks for no audience"]
        if not any(set(one.values) == {AUDIENCE} for one in each.audiences) and all(
            one.take(AUDIENCE) for one in each.audiences
        ):
            values = ", ".join(value for one in each.audiences for value in one.values)
            return [f"takes the audiences {values}"]
    return []


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
