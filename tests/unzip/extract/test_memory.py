"""What extraction takes at most is made to fit the container's memory limit."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unzip import zips
from tests.unzip.support import Recorder, in_memory, put, service_on
from unzip.extract.extractor import Extractor
from unzip.extract.memory import (
    MIB,
    PROGRAM_BYTES,
    TooLittleMemoryError,
    fitted,
    most_bytes,
    reader_bytes,
)
from unzip.extract.options import Options
from unzip.refusals import Reason
from unzip.s3.client import S3
from unzip.zip import central_directory
from unzip.zip.central_directory import MEMBER_BYTES
from unzip.zip.limits import Limits


def test_the_documentation_states_the_formula_and_what_it_comes_to() -> None:
    page = (Path(__file__).parents[3] / "docs/unzip/storage.md").read_text(encoding="utf-8")
    formula = re.search(r"`(UNZIP_READERS \S \(.*?\))`", page)
    assert formula is not None
    options = Options()
    words = formula.group(1).replace("\N{MULTIPLICATION SIGN}", "*")
    for name in ("readers", "span_bytes", "part_bytes"):
        words = words.replace(f"UNZIP_{name.upper()}", str(getattr(options, name)))
    readers = eval(words)
    assert readers == options.readers * reader_bytes(options)
    said = re.search(r"(\d+) MiB for the interpreter.*?: (\d+) MiB by default", page)
    assert said is not None
    assert int(said.group(1)) * MIB == PROGRAM_BYTES
    assert int(said.group(2)) * MIB == most_bytes(options)
    assert f"{MEMBER_BYTES / 1024} KiB per member" in page


@pytest.mark.parametrize("limit", [None, 512 * MIB, 364 * MIB])
def test_enough_memory_changes_nothing_but_the_directories(limit: int | None) -> None:
    fits = fitted(Options(), limit)
    assert replace(fits, directory_bytes=Options().directory_bytes, copies_rightly=bool) == replace(
        Options(), copies_rightly=bool
    )
    assert limit is None or most_bytes(fits) + fits.directory_bytes == limit


@pytest.mark.parametrize("limit", range(200, 360, 20))
def test_less_memory_narrows_what_spares_work_first(limit: int) -> None:
    narrow = fitted(Options(), limit * MIB)
    assert most_bytes(narrow) <= limit * MIB * 3 // 4
    assert narrow.keep_bytes == 0 or narrow.buffer_bytes == Options().buffer_bytes
    assert narrow.buffer_bytes == 16 * MIB or narrow.readers == Options().readers


def test_a_directory_that_does_not_fit_is_refused_with_what_is_needed(store: S3) -> None:
    put(store, "kim/result.zip", zips.standard({"a" * 200: b"1", "b" * 200: b"2"}))
    with Extractor(Options(directory_bytes=1024)) as extractor:
        backend = Recorder()
        assert service_on(store, extractor, backend).sweep().outcomes == {"refused": 1}
    assert backend.events[0]["data"]["reason"] == Reason.DIRECTORY_TOO_LARGE
    assert "raise the container's memory limit" in backend.events[0]["data"]["detail"]


def test_directories_share_what_there_is() -> None:
    """One archive's names wait until another's are gone."""
    data = zips.standard({"a" * 200: b"1"})
    source = in_memory(data)
    need = central_directory.most_bytes(1, 46 + 200, Limits())
    taken: list[str] = []

    def second() -> None:
        with extractor.directory(source, Limits()):
            taken.append("second")

    with Extractor(Options(directory_bytes=need)) as extractor:
        with extractor.directory(source, Limits()):
            thread = threading.Thread(target=second)
            thread.start()
            assert not extractor._directories.offer(1)
            taken.append("first")
        thread.join()
        assert extractor._directories.offer(need)
    assert taken == ["first", "second"]


def test_too_little_is_refused_with_what_is_needed() -> None:
    with pytest.raises(TooLittleMemoryError, match=r"limit is 128 MiB.*needs 192 MiB"):
        fitted(Options(), 128 * MIB)
