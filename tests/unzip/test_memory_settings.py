"""What extraction takes at most is made to fit the container's memory limit."""

from __future__ import annotations

import pytest

from unzip.extract import Options
from unzip.memory import MIB, TooLittleMemoryError, fitted, most_bytes


def test_the_default_is_what_the_documentation_says() -> None:
    assert most_bytes(Options()) == 240 * MIB


@pytest.mark.parametrize("limit", [None, 512 * MIB, 320 * MIB])
def test_enough_memory_changes_nothing(limit: int | None) -> None:
    assert fitted(Options(), limit) == Options()


@pytest.mark.parametrize("limit", range(160, 320, 20))
def test_less_memory_narrows_what_spares_work_first(limit: int) -> None:
    narrow = fitted(Options(), limit * MIB)
    assert most_bytes(narrow) <= limit * MIB * 3 // 4
    assert narrow.keep_bytes == 0 or narrow.buffer_bytes == Options().buffer_bytes
    assert narrow.buffer_bytes == 16 * MIB or narrow.readers == Options().readers


def test_too_little_is_refused_with_what_is_needed() -> None:
    with pytest.raises(TooLittleMemoryError, match=r"limit is 128 MiB.*needs 150 MiB"):
        fitted(Options(), 128 * MIB)
