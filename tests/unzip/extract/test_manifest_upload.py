"""A manifest larger than one part: all of it, or nothing, and no upload left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from unzip.extract.manifest_upload import PART_BYTES, TYPE, upload_manifest
from unzip.extract.source import MANIFEST, SOURCE_TAG
from unzip.ledger.lease import LeaseLost
from unzip.s3.client import S3
from unzip.s3.errors import Conflict, Transient
from unzip.s3.types import Absent, Part

KEY = f"kim/result/{MANIFEST}"


def _document(size: int = 2 * PART_BYTES + 1000) -> Iterator[bytes]:
    """A JSON list of at least ``size`` bytes."""
    row = json.dumps({"path": "x" * 900}).encode()
    yield b"["
    for number in range(size // len(row) + 1):
        yield (b"," if number else b"") + row
    yield b"]"


class Counting:
    """The store, with the bytes of each part that was sent."""

    def __init__(self, store: S3) -> None:
        self._store = store
        self.parts: list[int] = []

    def upload_part(self, key: str, upload: str, number: int, body: bytearray) -> Part:
        self.parts.append(len(body))
        return self._store.upload_part(key, upload, number, body)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _upload(store: Any, fenced: Any = lambda: None, tag: str = "ours") -> None:
    upload_manifest(store, "kim/result/", _document(), tag, fenced=fenced)


def test_a_manifest_larger_than_a_part_goes_up_in_parts(store: S3) -> None:
    counting = Counting(store)
    _upload(counting)
    found = store.get(KEY)
    assert found.body == b"".join(_document())
    assert len(counting.parts) == 3
    assert all(PART_BYTES <= size < PART_BYTES + 2000 for size in counting.parts[:-1])
    head = store.head(KEY)
    assert head.metadata[SOURCE_TAG] == "ours"
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize("size", [PART_BYTES - 2000, PART_BYTES, 2 * PART_BYTES])
def test_a_manifest_about_as_large_as_a_part(store: S3, size: int) -> None:
    upload_manifest(store, "kim/result/", _document(size), "ours", fenced=lambda: None)
    assert store.get(KEY).body == b"".join(_document(size))
    assert list(store.list_uploads("")) == []


def test_a_lease_lost_between_two_parts_leaves_nothing(store: S3) -> None:
    counting = Counting(store)

    def fenced() -> None:
        if len(counting.parts) == 1:
            raise LeaseLost("somebody else has it")

    with pytest.raises(LeaseLost):
        _upload(counting, fenced)
    assert counting.parts
    assert list(store.entries("kim/")) == []
    assert list(store.list_uploads("")) == []


def test_a_part_that_fails_leaves_nothing(store: S3) -> None:
    class Failing(Counting):
        def upload_part(self, key: str, upload: str, number: int, body: bytearray) -> Part:
            if number == 2:
                raise Transient("the connection was reset")
            return super().upload_part(key, upload, number, body)

    with pytest.raises(Transient):
        _upload(Failing(store))
    assert list(store.entries("kim/")) == []
    assert list(store.list_uploads("")) == []


def test_an_upload_that_was_begun_twice_is_dropped(store: S3) -> None:
    """Found: where the answer to its beginning was lost, the first one stayed for good."""

    class BegunTwice(Counting):
        def create_upload(self, *args: Any, **options: Any) -> str:
            self._store.create_upload(*args, **options)
            return self._store.create_upload(*args, **options)

    _upload(BegunTwice(store))
    assert store.get(KEY).body == b"".join(_document())
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize("tag", ["ours", "another"])
def test_somebody_was_faster_with_the_manifest(store: S3, tag: str) -> None:
    """Found: where a predecessor had written the same manifest, our parts stayed for good."""

    class Overtaken(Counting):
        overtaken = False

        def complete_upload(self, *args: Any, **options: Any) -> Any:
            if not self.overtaken:
                self.overtaken = True
                self._store.put(KEY, b"{}", TYPE, {SOURCE_TAG: tag}, Absent())
            return self._store.complete_upload(*args, **options)

    asked: list[None] = []
    overtaken = Overtaken(store)
    _upload(overtaken, lambda: asked.append(None))
    assert overtaken.overtaken
    assert len(asked) > len(overtaken.parts)  # the ledger was asked before anything else was done
    expected = b"{}" if tag == "ours" else b"".join(_document())
    assert store.get(KEY).body == expected
    assert list(store.list_uploads("")) == []


def test_who_lost_the_lease_writes_over_nobody(store: S3) -> None:
    class Overtaken(Counting):
        def complete_upload(self, *args: Any, **options: Any) -> Any:
            raise Conflict("somebody else was faster")

    overtaken = Overtaken(store)

    def fenced() -> None:
        if len(overtaken.parts) == 3:
            raise LeaseLost("somebody else has it")

    with pytest.raises(LeaseLost):
        _upload(overtaken, fenced)
    assert list(store.entries("kim/")) == []
    assert list(store.list_uploads("")) == []
