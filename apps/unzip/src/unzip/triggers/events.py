"""S3's notifications, in each of the forms they come in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus


class UnknownEvent(Exception):  # noqa: N818 - what it is
    """The text is none of the known notifications."""


def created_keys(body: str | bytes, *, bucket: str) -> list[str]:
    """Keys that may have been written in ``bucket``, from one notification; look before use.

    Understood: S3 event messages (SQS, versitygw's webhook and NATS), the same inside an SNS
    envelope, and EventBridge events. Other buckets, deletions and test messages give no key.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnknownEvent(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UnknownEvent("not a JSON object")
    return list(_keys(document, bucket))


def _keys(document: dict[str, Any], bucket: str) -> Iterator[str]:
    if isinstance(document.get("Message"), str) and "Records" not in document:
        yield from created_keys(document["Message"], bucket=bucket)
        return
    if document.get("Event") == "s3:TestEvent":
        return
    try:
        if "detail" in document:
            detail = document["detail"]
            if (
                document.get("detail-type") == "Object Created"
                and detail["bucket"]["name"] == bucket
            ):
                yield _key(detail["object"]["key"])  # EventBridge does not encode keys
            return
        for record in document["Records"]:
            name = record["eventName"].removeprefix("s3:")
            where = record["s3"]
            if name.startswith("ObjectCreated:") and where["bucket"]["name"] == bucket:
                yield from _candidates(_key(where["object"]["key"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UnknownEvent(f"a notification without {error}") from None


def _key(found: object) -> str:
    """A record's key; UnknownEvent where it is none that S3 can have."""
    if not isinstance(found, str):
        raise UnknownEvent(f"a key that is no text: {repr(found)[:80]}")
    try:
        found.encode()
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
        raise UnknownEvent(f"a key that is no text: {error}") from None
    return found


def _candidates(key: str) -> list[str]:
    """What a record's key may mean: S3 encodes it as a form would, versitygw not at all."""
    if not key.isascii() or " " in key:
        return [key]
    decoded = unquote_plus(key)
    return [key] if decoded == key else [decoded, key]
