"""The IAM policies of docs/aws/iam give each service what it calls, and nothing more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.charts.rendering import ROOT

FOLDER = ROOT / "docs/aws/iam"
# What the service's code calls; a policy with more is wider than it must be. That it has all of
# them is seen where the calls are made: `tests.aws_calls` records them in the services' tests.
CALLS = {
    "inference": {"s3:GetObject", "s3:ListBucket"},
    "proxy": {
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
        "sagemaker:DescribeEndpoint",
        "sagemaker:InvokeEndpoint",
        "sagemaker:InvokeEndpointAsync",
    },
    "unzip": {
        "s3:AbortMultipartUpload",
        "s3:DeleteObject",
        "s3:GetObject",
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "s3:PutObject",
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:ReceiveMessage",
    },
}
# One bucket, one of its folders, or one endpoint: never everything of a kind.
_NARROW = re.compile(
    r"^arn:aws:(s3:::[a-z-]+(/[a-z/]*\*)?|sagemaker:[a-z0-9-]+:\d+:endpoint/[a-z-]+"
    r"|sqs:[a-z0-9-]+:\d+:[a-z-]+)$"
)


def too_wide(policy: Path) -> list[str]:
    """What the policy allows beyond its service's calls."""
    found = []
    for statement in json.loads(policy.read_text(encoding="utf-8"))["Statement"]:
        assert statement["Effect"] == "Allow"
        found += [a for a in statement["Action"] if a not in CALLS[policy.stem]]
        found += [r for r in statement["Resource"] if not _NARROW.match(r)]
    return found


@pytest.mark.parametrize("policy", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_policy_is_as_narrow_as_its_service(policy: Path) -> None:
    assert too_wide(policy) == []
    allowed = {
        action
        for statement in json.loads(policy.read_text(encoding="utf-8"))["Statement"]
        for action in statement["Action"]
    }
    assert allowed == CALLS[policy.stem], "the policy lacks a call, and the service would fail"
