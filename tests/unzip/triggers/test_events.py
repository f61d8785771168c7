"""Notifications in each of their forms."""

from __future__ import annotations

import json

import pytest

from unzip.triggers.events import UnknownEvent, created_keys


def _record(key: str, *, bucket: str = "archives", name: str = "ObjectCreated:Put") -> str:
    s3 = {"bucket": {"name": bucket}, "object": {"key": key}}
    return json.dumps({"Records": [{"eventName": name, "s3": s3}]})


def _created_object(key: object) -> str:
    detail = {"bucket": {"name": "archives"}, "object": {"key": key}}
    return json.dumps({"detail-type": "Object Created", "detail": detail})


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        (_record("kim/result.zip"), ["kim/result.zip"]),
        (
            _record("kim/result.zip", name="s3:ObjectCreated:CompleteMultipartUpload"),
            ["kim/result.zip"],
        ),
        (_record("kim+lee/%ED%95%9C.zip"), ["kim lee/한.zip", "kim+lee/%ED%95%9C.zip"]),
        (_record("kim +민/result.zip"), ["kim +민/result.zip"]),  # versitygw encodes nothing
        (_record("kim/result.zip", bucket="other"), []),
        (_record("kim/result.zip", name="ObjectRemoved:Delete"), []),
        (json.dumps({"Event": "s3:TestEvent", "Bucket": "archives"}), []),
        (
            json.dumps({"Type": "Notification", "Message": _record("a/result.zip")}),
            ["a/result.zip"],
        ),
        (
            json.dumps(
                {
                    "detail-type": "Object Created",
                    "detail": {"bucket": {"name": "archives"}, "object": {"key": "a+b/result.zip"}},
                }
            ),
            ["a+b/result.zip"],
        ),
        (
            json.dumps(
                {
                    "detail-type": "Object Deleted",
                    "detail": {"bucket": {"name": "archives"}, "object": {"key": "a/result.zip"}},
                }
            ),
            [],
        ),
    ],
)
def test_created_keys(body: str, keys: list[str]) -> None:
    assert created_keys(body, bucket="archives") == keys


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "[]",
        "3",
        "{}",
        "[" * 100_000,  # nested too deeply to be read
        '{"Records": 3}',
        '{"Records": [{}]}',
        '{"detail-type": "Object Created", "detail": {}}',
        _created_object(5),
        _created_object(["kim/result.zip"]),
        _created_object("\ud800/result.zip"),  # half of a surrogate pair: no key of S3's
        _record("\ud800/result.zip"),
        json.dumps({"Message": _record("\ud800/result.zip")}),
    ],
)
def test_unknown_event(body: str) -> None:
    with pytest.raises(UnknownEvent):
        created_keys(body, bucket="archives")
