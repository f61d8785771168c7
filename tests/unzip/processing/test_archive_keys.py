"""Listing: every archive, and not page after page of what was extracted."""

from __future__ import annotations

from tests.unzip.support import Mortal, put
from unzip.processing.archive_keys import archives, result_prefix
from unzip.s3.client import S3

STATE = ".slipway/unzip/"


def _found(store: S3, prefix: str = "") -> list[str]:
    found = archives(store, prefix=prefix, suffix="/result.zip", state_prefix=STATE)
    return [entry.key for entry in found]


def test_prefix_and_suffix(store: S3) -> None:
    for key in (
        "a/result.zip",
        "b/other.zip",
        "b/c/result.zip",
        "result.zip",
        "z/result.zip.tmp",
        STATE + "x/result.zip",
    ):
        put(store, key, b"x")
    assert _found(store) == ["a/result.zip", "b/c/result.zip"]
    assert _found(store, "b/") == ["b/c/result.zip"]


def test_an_archive_within_results_is_an_object_like_any_other(store: S3) -> None:
    put(store, "a/result.zip", b"x")
    put(store, "a/result/b/result.zip", b"x")
    put(store, "a/result0/result.zip", b"x")
    assert _found(store) == ["a/result.zip", "a/result0/result.zip"]


def test_many_files_of_one_user_are_jumped_over(store: S3) -> None:
    for user in ("a", "b"):
        put(store, f"{user}/result.zip", b"x")
        for n in range(250):
            store.put(f"{user}/result/{n:04}", b"", "text/plain", {})
    counted = Mortal(store)
    found = archives(counted, prefix="", suffix="/result.zip", state_prefix=STATE)
    assert [entry.key for entry in found] == ["a/result.zip", "b/result.zip"]
    assert len(counted.calls) == 3


def test_result_prefix() -> None:
    assert result_prefix("kim/result.zip") == "kim/result/"
