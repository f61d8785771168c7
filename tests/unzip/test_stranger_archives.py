"""Archives that libarchive and libzip test their readers with: right, or refused by name.

What we publish must be what two independent readers find: Python's and libarchive's. The sources
come from Debian, so this runs in `make conformance` alone and writes its table.
"""

from __future__ import annotations

import binascii
import io
import os
import shutil
import subprocess
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import conformance
from tests.unzip.support import in_memory
from unzip.directory import Directory, Limits
from unzip.extract import Extractor
from unzip.kinds import Kind
from unzip.refusals import Refused

pytestmark = pytest.mark.conformance
SUITE = "bookworm"
Files = dict[str, tuple[int, int]]


def _sources(package: str, folder: Path) -> Path:
    """The unpacked source of a Debian package; the test is skipped where none can be had."""
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("bsdtar") is None:
        pytest.skip("apt-get and bsdtar are needed")
    listed = folder / "sources.list"
    listed.write_text(f"deb-src http://deb.debian.org/debian {SUITE} main\n")
    options = [
        *("-o", f"Dir::Etc::SourceList={listed}", "-o", "Dir::Etc::SourceParts=-"),
        *("-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"),
        *("-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"),
    ]
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    for words in (["update"], ["source", "--download-only", package]):
        done = subprocess.run(
            [apt, *options, *words], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"Debian's archive does not answer: {done.stderr.strip()[-200:]}")
    unpacked = folder / package
    unpacked.mkdir()
    (archive,) = folder.glob(f"{package}_*.orig.tar.*[!c]")
    subprocess.run(["tar", "xf", str(archive), "-C", str(unpacked)], check=True)
    return unpacked


def _decoded(path: Path) -> bytes:
    """The file in a uuencoded one."""
    lines = path.read_bytes().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(b"begin ")) + 1
    body = bytearray()
    for line in lines[first:]:
        if line.strip() == b"end":
            break
        try:
            body += binascii.a2b_uu(line)
        except binascii.Error:  # some writers leave garbage behind the line's length
            body += binascii.a2b_uu(line[: ((((line[0] - 32) & 63) * 4 + 5) // 3) + 1])
    return bytes(body)


def _archives(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        if path.suffix == ".zip":
            yield path.name, path.read_bytes()
        elif path.name.endswith((".zip.uu", ".zipx.uu", ".jar.uu", ".xps.uu")):
            yield path.name.removesuffix(".uu"), _decoded(path)


def ours(extractor: Extractor, data: bytes) -> tuple[Files, Directory]:
    """Every file's name with its size and the CRC-32 of the bytes we would publish."""
    source = in_memory(data)
    directory = extractor.read_directory(source, Limits())
    found: Files = {}

    def take(index: int, chunks: Iterator[bytes]) -> str:
        size = crc = 0
        for chunk in chunks:
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        if directory.members[index].kind is Kind.FILE:
            found[directory.members[index].path] = (size, crc)
        return ""

    extractor.verify(source, directory.members, check=lambda: None, take=take)
    return found, directory


def by_python(data: bytes) -> list[tuple[int, int]] | str:
    """Size and CRC-32 of the bytes of every file, or why Python does not read them."""
    found = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.is_dir() or info.external_attr & 0x10 or info.external_attr >> 28 == 0xA:
                    continue
                body = archive.read(info)
                found.append((len(body), zlib.crc32(body)))
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        EOFError,
        zlib.error,
        IndexError,
        ValueError,
    ) as error:
        return f"{type(error).__name__}: {error}"[:80]
    return sorted(found)


def by_libarchive(data: bytes, folder: Path) -> list[tuple[int, int]] | str:
    """The same from what `bsdtar` writes."""
    folder.mkdir()
    archive = folder.with_suffix(".zip")  # through a pipe it would not see what a link is
    archive.write_bytes(data)
    try:
        done = subprocess.run(
            ["bsdtar", "-x", "-f", str(archive), "-C", str(folder)],
            capture_output=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            check=False,
            timeout=60,
            start_new_session=True,  # without a terminal it cannot ask for a passphrase
        )
    except subprocess.TimeoutExpired:
        shutil.rmtree(folder)
        return "it does not end"
    bodies = [p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    shutil.rmtree(folder)
    if done.returncode:
        return done.stderr.decode(errors="replace").strip()[:80] or "an error"
    return sorted((len(body), zlib.crc32(body)) for body in bodies)


@pytest.mark.parametrize("package", ["libarchive", "libzip"])
def test_archives_of(package: str, extractor: Extractor, tmp_path: Path) -> None:
    verdicts: Counter[str] = Counter()
    wrong: list[str] = []
    alone: list[str] = []
    refused_alone: Counter[str] = Counter()
    for name, data in _archives(_sources(package, tmp_path)):
        theirs = {"Python": by_python(data), "bsdtar": by_libarchive(data, tmp_path / "out")}
        readable = [who for who, files in theirs.items() if not isinstance(files, str)]
        try:
            found, _ = ours(extractor, data)
        except Refused as error:
            verdicts[f"refused: {error.reason}"] += 1
            if len(readable) == 2 and theirs["Python"] == theirs["bsdtar"]:
                refused_alone[str(error.reason)] += 1
            continue
        verdicts["right"] += 1
        mine = sorted(found.values())
        differing = [who for who in readable if theirs[who] != mine]
        if differing:
            wrong.append(f"{name}: {', '.join(differing)} differ")
        elif not readable:
            alone.append(name)
    assert verdicts, "the package has no archives any more"
    rows = "\n".join(f"| {what} | {count} |" for what, count in sorted(verdicts.items()))
    body = (
        f"{sum(verdicts.values())} archives, each also read by Python's `zipfile` and by `bsdtar`. "
        f"Published with other bytes than one of them: {len(wrong)}.\n\n"
        f"| verdict | archives |\n|---|---|\n{rows}\n\n"
        "Refused though both others read the same: "
        + (", ".join(f"{why} ({n})" for why, n in sorted(refused_alone.items())) or "none")
        + ". Read although neither other does: "
        + (", ".join(f"`{name}`" for name in alone) or "none")
        + "."
    )
    print(body, "\n".join(wrong), sep="\n")
    conformance.write_section(f"Archives of {package}'s tests", body)
    assert not wrong
