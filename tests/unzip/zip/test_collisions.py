"""Memory of the checks on names follows the directory's size, not its depth."""

from __future__ import annotations

import tracemalloc

import pytest

from unzip.refusals import Refused
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
