"""release.doctor.trust: a trust policy lets in what IAM would let in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.doctor.trust import AUDIENCE, ISSUER, opens_to_all, statements

MAIN = "repo:team/serving:ref:refs/heads/main"
PROVIDER = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"


def policy(condition: dict[str, Any], **more: Any) -> dict[str, Any]:
    statement = {
        "Effect": "Allow",
        "Principal": {"Federated": PROVIDER},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {f"{ISSUER}:aud": AUDIENCE}, **condition},
        **more,
    }
    return {"Statement": [statement]}


def trusts(document: dict[str, Any], subject: str) -> bool:
    return any(one.trusts(subject) for one in statements(document))


@pytest.mark.parametrize(
    ("operator", "value", "trusted", "beyond"),
    [
        ("StringLike", "repo:team/serving:*", True, True),
        ("StringLike", "repo:team/*", True, True),
        ("StringLike", "repo:team/serving:ref:refs/heads/mai?", True, True),
        ("StringLike", MAIN, True, False),
        ("StringLikeIfExists", "repo:team/*", True, True),
        ("ForAnyValue:StringLike", "repo:team/*", True, True),
        ("ForAllValues:StringEquals", MAIN, True, False),
        ("StringEquals", "repo:team/serving:*", False, True),
        ("StringEqualsIgnoreCase", MAIN, True, False),
        ("StringLike", "repo:team/serving:ref:refs/heads/[m]ain", False, True),
        ("StringNotLike", "repo:other/*", True, True),
    ],
)
def test_an_operator_means_what_it_means_to_iam(
    operator: str, value: str, trusted: bool, beyond: bool
) -> None:
    document = policy({operator: {f"{ISSUER}:aud": AUDIENCE, f"{ISSUER}:sub": value}})
    assert trusts(document, MAIN) is trusted
    assert any(one.beyond([MAIN]) for one in statements(document)) is beyond


def test_every_operator_must_hold() -> None:
    both = {
        "StringEquals": {f"{ISSUER}:sub": [MAIN]},
        "StringLike": {f"{ISSUER}:sub": "repo:team/serving:*"},
    }
    assert trusts(policy(both), MAIN)
    assert not trusts(policy(both), "repo:team/serving:pull_request")
    assert [one.beyond([MAIN]) for one in statements(policy(both))] == [[]]


@pytest.mark.parametrize(
    ("more", "opened"),
    [
        ({"Principal": "*", "Condition": {}}, True),
        ({"Principal": {"AWS": "*"}, "Action": "sts:AssumeRole", "Condition": {}}, True),
        ({"Principal": {"AWS": ["arn:aws:iam::123456789012:root"]}, "Condition": {}}, False),
        ({"Principal": {"AWS": "*"}, "Effect": "Deny", "Condition": {}}, False),
        ({"Principal": {"Service": "ec2.amazonaws.com"}}, False),
    ],
)
def test_a_principal_that_is_no_provider_of_github(more: dict[str, Any], opened: bool) -> None:
    document = policy({}, **more)
    assert statements(document) == []
    assert opens_to_all(document) is opened


@given(st.text(alphabet="repo:team/*?[]\\.+"), st.text(alphabet="repo:team/\n"))
def test_no_value_is_too_strange(value: str, subject: str) -> None:
    document = policy({"StringLike": {f"{ISSUER}:sub": value}})
    assert trusts(document, subject) in (True, False)
    assert trusts(policy({"StringLike": {f"{ISSUER}:sub": "*"}}), subject)
