"""AWS calls as a service's code makes them, held against the policy that its role has."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from botocore.client import BaseClient

FOLDER = Path(__file__).resolve().parents[1] / "docs/aws/iam"
# The action that a call needs, where it is not called like the call.
# Source: "Actions, resources, and condition keys for Amazon S3" in AWS's service authorization
# reference.
S3_ACTIONS = {
    "CompleteMultipartUpload": "PutObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListObjectsV2": "ListBucket",
    "UploadPart": "PutObject",
}


def allowed(service: str, action: str, key: str) -> bool:
    """Whether the policy of a service allows an action, on a key where it is about an object."""
    for statement in json.loads((FOLDER / f"{service}.json").read_text())["Statement"]:
        for resource in statement["Resource"]:
            pattern = resource.rpartition(":")[2].partition("/")[2]
            if action in statement["Action"] and (not key or fnmatch.fnmatchcase(key, pattern)):
                return True
    return False


@contextmanager
def held_against_its_policy(service: str) -> Iterator[set[str]]:
    """Fail, when the block is left, for each call of the service that its policy does not allow.

    Calls that the test itself makes are let through. Yields the actions that were seen.
    """
    seen: set[str] = set()
    refused: set[str] = set()
    make = BaseClient._make_api_call

    def recorded(self: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        frame = sys._getframe()
        ours = f"{service}."
        while frame.f_back is not None and not frame.f_globals["__name__"].startswith(ours):
            frame = frame.f_back
        if frame.f_globals["__name__"].startswith(ours):
            name = self.meta.service_model.service_name
            called = S3_ACTIONS.get(operation, operation) if name == "s3" else operation
            action = f"{name.removesuffix('-runtime')}:{called}"
            seen.add(action)
            key = parameters.get("Key", "") if name == "s3" else ""
            if not allowed(service, action, key):
                refused.add(f"{action} {key}".strip())
        return make(self, operation, parameters)

    with patch.object(BaseClient, "_make_api_call", recorded):
        yield seen
    assert not refused, f"docs/aws/iam/{service}.json does not allow {sorted(refused)}"
