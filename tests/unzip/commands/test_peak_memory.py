"""The command's peak memory, seen by the kernel, for the archives that took most of it."""

from __future__ import annotations

import functools
import re
import stat
import subprocess
import sys
import zipfile

import pytest

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.commands.test_commands import environment
from tests.unzip.support import in_memory, manifest_of, put
from unzip.extract.extractor import Extractor
from unzip.extract.memory import most_bytes
from unzip.extract.options import Options
from unzip.s3.client import S3
from unzip.zip.limits import Limits

MIB = 1 << 20
# VmHWM is of this program alone; ru_maxrss begins with that of the process which forked it.
_PROGRAM = """
import atexit, pathlib, sys
show = lambda: sys.stderr.write(pathlib.Path('/proc/self/status').read_text())
atexit.register(show)
from unzip.cli import main
main()
"""


def peak(server: S3Server, bucket: str, *words: str) -> int:
    """The most bytes of memory that `unzip` with these words had at once."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words],
        env=environment(server, bucket),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert found is not None
    most = int(found.group(1)) << 10
    print(f"{most / MIB:.0f} MiB")
    return most


def dry_run(server: S3Server, bucket: str) -> int:
    """The same while `u/result.zip` is proved and nothing is written."""
    key, target = f"s3://{bucket}/u/result.zip", f"s3://{bucket}/u/result/"
    return peak(server, bucket, "extract", "--dry-run", key, target)


@functools.cache
def _large() -> bytes:
    """Eight members of 40 MiB, every other one stored, that do not shrink much."""
    body = zips.noise(MIB) * 40
    deflated = zips.Entry(b"", body).packed()
    entries = [
        zips.Entry(b"%d.bin" % n, body, method=zipfile.ZIP_DEFLATED, compressed=deflated)
        if n % 2
        else zips.Entry(b"%d.bin" % n, body, method=zipfile.ZIP_STORED)
        for n in range(8)
    ]
    return zips.build(*entries)


def _deep() -> bytes:
    names = ["/".join([f"{n:04}", *["d"] * 440, "f"]) for n in range(2400)]
    return zips.build(*[zips.Entry(name.encode(), b"x", method=0) for name in names])


def _long_names(comment: bytes = b"", count: int = 100_000) -> bytes:
    """Members whose keys have nearly the 1,024 bytes of the longest ones."""
    folder = "/".join(["n" * 200] * 4)
    return zips.build(
        *[zips.Entry(f"{folder}/{n:06}{'n' * 186}".encode(), b"", method=0) for n in range(count)],
        zip64=True,
        comment=comment,
    )


def _most_of_directory(data: bytes) -> int:
    """What the formula says for the names."""
    source = in_memory(data)
    found: list[int] = []
    with Extractor(Options()) as extractor:
        extractor.read_directory(source, Limits(name_bytes=1024), found.append)
    return found[0]


@pytest.mark.parametrize("archives", [1, 2])
def test_large_members(s3_server: S3Server, store: S3, bucket: str, archives: int) -> None:
    """Found: ranges read ahead were not counted: 317 MiB, two archives at once 363."""
    for number in range(archives):
        put(store, f"u{number}/result.zip", _large())
    most = peak(s3_server, bucket, "run")
    for number in range(archives):
        assert manifest_of(store, f"u{number}/result/") is not None
    assert most <= most_bytes(Options())


def test_deep_names(s3_server: S3Server, store: S3, bucket: str) -> None:
    """Found: 2,400 members 440 folders deep took 694 MiB of a limit of 512."""
    put(store, "u/result.zip", _deep())
    most = peak(
        s3_server,
        bucket,
        "extract",
        "--dry-run",
        *(f"s3://{bucket}/u/{name}" for name in ("result.zip", "result/")),
    )
    assert most < 128 * MIB


def test_names_of_many_bytes(s3_server: S3Server, store: S3, bucket: str) -> None:
    """Twenty thousand of them take no more than the formula says of names."""
    most = []
    for count in (1, 20_000):
        data = _long_names(count=count)
        put(store, "u/result.zip", data)
        most.append(dry_run(s3_server, bucket))
    assert most[1] - most[0] <= _most_of_directory(data)


@pytest.mark.conformance
def test_names_of_most_bytes(s3_server: S3Server, store: S3, bucket: str) -> None:
    """A hundred thousand of them stay within the formula, and within 256 MiB."""
    data = _long_names()
    put(store, "u/result.zip", data)
    most = dry_run(s3_server, bucket)
    assert most <= most_bytes(Options()) + _most_of_directory(data)
    assert most < 256 * MIB


@pytest.mark.conformance
@pytest.mark.timeout(1500)
def test_names_of_most_bytes_are_published(s3_server: S3Server, store: S3, bucket: str) -> None:
    """The same with files, manifest and ledger, and once more over the first version."""
    for comment in (b"first", b"second"):
        put(store, "u/result.zip", _long_names(comment))
        most = peak(s3_server, bucket, "run")
        assert most < 256 * MIB
        assert sum(1 for _ in store.entries("u/result/")) == 100_001


def _links(target: bytes) -> bytes:
    """A hundred thousand links of the longest names."""
    folder = "/".join(["n" * 200] * 4)
    return zips.build(
        zips.A,
        *[
            zips.Entry(
                f"{folder}/{n:06}{'n' * 86}".encode(), target, method=0, mode=stat.S_IFLNK | 0o777
            )
            for n in range(99_999)
        ],
        zip64=True,
    )


@pytest.mark.conformance
@pytest.mark.timeout(900)
def test_links_of_the_longest_names(s3_server: S3Server, store: S3, bucket: str) -> None:
    """Found: the rows of what is skipped were in memory together, beside the directory."""
    data = _links(b"a-target-of-forty-bytes/that-is-not-ther")
    put(store, "u/result.zip", data)
    most = peak(s3_server, bucket, "run")
    document = manifest_of(store, "u/result/")
    assert document is not None
    assert len(document["skipped"]) == 99_999
    assert most <= most_bytes(Options()) + _most_of_directory(data)
    assert most < 256 * MIB
