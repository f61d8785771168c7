"""Paths that cannot live together are refused; the memory of the check follows the directory."""

from __future__ import annotations

import tracemalloc

import pytest

from unzip.refusals import Reason, Refused
from unzip.zip import collisions
from unzip.zip.collisions import check_together


def _peak(paths: list[bytes]) -> int:
    tracemalloc.start()
    try:
        check_together(lambda: paths, reserved="_manifest.json")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_deep_names_take_no_more_memory_than_flat_ones() -> None:
    """Found: every prefix of every name was kept; 2,400 members 440 deep took 694 MiB."""
    assert _peak([b"/".join([b"%04d" % n, *[b"d"] * 440, b"f"]) for n in range(2400)]) < 2 << 20


def test_names_that_are_not_composed_are_not_kept_twice() -> None:
    """Found: the composed form of each name was kept; the names took their memory twice."""
    tail = "e\N{COMBINING ACUTE ACCENT}" * 250
    assert _peak([f"{n:04}{tail}".encode() for n in range(2400)]) < 1 << 20


def test_paths_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collisions, "hash", lambda normal: 7, raising=False)
    check_together(lambda: [b"a", b"b", b"c/d", b"c/"], reserved="_")
    with pytest.raises(Refused, match="two members have this name"):
        check_together(lambda: [b"a", b"b", b"c/d", b"b"], reserved="_")
    with pytest.raises(Refused, match="a file has members below it"):
        check_together(lambda: [b"a", b"b", b"b/d"], reserved="_")


_COMPOSED, _APART = "é".encode(), b"e\xcc\x81"


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([_COMPOSED, _APART], Reason.NAME_DUPLICATE),
        ([_COMPOSED + b"/a", _APART + b"/a"], Reason.NAME_DUPLICATE),
        ([_COMPOSED + b"/a", _APART + b"/b"], None),
        ([_COMPOSED, _APART + b"/b"], Reason.FILE_AS_FOLDER),
        ([_COMPOSED + b"/", _APART + b"/"], None),  # a folder may be listed more than once
        ([b"a/b", b"a/b/"], Reason.FILE_AS_FOLDER),
        ([b"a", b"a"], Reason.NAME_DUPLICATE),
        ([b"a", b"A"], None),
        ([b"a/b/c", b"a"], Reason.FILE_AS_FOLDER),
        ([b"ab/c", b"a"], None),
        ([b"_m"], Reason.NAME_RESERVED),
        ([b"_m/a"], Reason.NAME_RESERVED),
        ([b"_m2"], None),
    ],
)
def test_paths_are_compared_in_one_normal_form(paths: list[bytes], reason: Reason | None) -> None:
    if reason is None:
        check_together(lambda: paths, reserved="_m")
        return
    with pytest.raises(Refused) as caught:
        check_together(lambda: paths, reserved="_m")
    assert caught.value.reason is reason
