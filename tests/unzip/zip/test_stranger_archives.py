"""Archives that others test their readers with, inside packages: right, or refused by name.

What we publish must be what two independent readers find: Python's and libarchive's. The sources
come from Debian and other registries, so this runs in `make conformance` alone and writes tables.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests import conformance
from tests.unzip.support import in_memory
from unzip.extract.extractor import Extractor
from unzip.refusals import Reason, Refused
from unzip.zip.kinds import Kind
from unzip.zip.limits import Limits
from unzip.zip.member import Directory

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


# Why we refuse what two other readers take alike.
WHY = {
    Reason.CONTRADICTORY_END_RECORD: "its end record says otherwise than its bytes: readers that "
    "believe the one or the other find other members",
    Reason.FILE_AS_FOLDER: "a file system holds one of the two; S3 would hold both",
    Reason.LEADING_DATA: "a reader from the front meets other bytes first",
    Reason.MULTI_DISK: "it says that it is one part of several; the others may hold members",
    Reason.NAME_CONTROL_CHARACTER: "the names are control characters",
    Reason.NO_END_RECORD: "its last bytes, the end of its comment, are cut off: so may others be",
    Reason.NO_FILES: "nothing would be published",
    Reason.TRAILING_DATA: "a second archive may be behind the first, and some readers take the "
    "last",
    Reason.UNACCOUNTED_DATA: "bytes between members may be a member that the directory hides",
    Reason.UNSUPPORTED_METHOD: "stored, deflate and bzip2 are read, the methods that zip tools "
    "write unasked",
}


def _judge(
    title: str, archives: Iterable[tuple[str, bytes]], extractor: Extractor, folder: Path
) -> None:
    """Write the section of the page, and fail where we read what another reader does not."""
    verdicts: Counter[str] = Counter()
    wrong: list[str] = []
    alone: list[str] = []
    strict: list[str] = []
    for name, data in archives:
        theirs = {"Python": by_python(data), "bsdtar": by_libarchive(data, folder / "out")}
        readable = [who for who, files in theirs.items() if not isinstance(files, str)]
        try:
            found, _ = ours(extractor, data)
        except Refused as error:
            verdicts[f"refused: {error.reason}"] += 1
            if len(readable) == 2 and theirs["Python"] == theirs["bsdtar"]:
                strict.append(f"| `{name}` | {error.reason}: {WHY[error.reason]} |")
            continue
        verdicts["right"] += 1
        mine = sorted(found.values())
        differing = [who for who in readable if theirs[who] != mine]
        if differing:
            wrong.append(f"{name}: {', '.join(differing)} differ")
        elif not readable:
            alone.append(name)
    assert verdicts, "there are no archives any more"
    rows = "\n".join(f"| {what} | {count} |" for what, count in sorted(verdicts.items()))
    body = (
        f"{sum(verdicts.values())} archives, each also read by Python's `zipfile` and by `bsdtar`. "
        f"Published with other bytes than one of them: {len(wrong)}.\n\n"
        f"| verdict | archives |\n|---|---|\n{rows}\n\n"
        "Read although neither other does: "
        + (", ".join(f"`{name}`" for name in alone) or "none")
        + ". Refused though both others read the same:"
        + (" none." if not strict else "\n\n| archive | why |\n|---|---|\n" + "\n".join(strict))
    )
    print(body, "\n".join(wrong), sep="\n")
    conformance.write_section(title, body)
    assert not wrong


@pytest.mark.parametrize("package", ["libarchive", "libzip"])
def test_archives_of(package: str, extractor: Extractor, tmp_path: Path) -> None:
    archives = _archives(_sources(package, tmp_path))
    _judge(f"Archives of {package}'s tests", archives, extractor, tmp_path)


# Versions whose packages hold archives that their tests read.
PACKAGES = {
    "npm": ("unzip@0.1.11", "node-unzip-2@0.2.8"),
    "pip": ("libarchive-c==5.3", "patool==4.0.7", "python-docx==1.2.0", "python-pptx==1.0.2"),
    "go": (
        "github.com/klauspost/compress@v1.18.0",
        "github.com/mholt/archives@v0.1.5",
        "github.com/gabriel-vasile/mimetype@v1.4.8",
        "github.com/h2non/filetype@v1.1.3",
        "github.com/nwaples/rardecode/v2@v2.1.0",
        "github.com/hashicorp/go-getter@v1.7.8",
    ),
}
_ARCHIVE = re.compile(
    r"\.(zip|zipx|jar|xpi|epub|docx|xlsx|pptx|potx|apk|od[tsp]|kmz|cbz|crx)(\.base64)?$", re.I
)
_LARGEST = 4 << 20


def _download(tool: str, package: str, folder: Path) -> Path:
    """The package's file; the test is skipped where the registry does not answer."""
    program = {"npm": "npm", "pip": "uv", "go": "go"}[tool]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is needed")
    name = package.partition("==")[0]
    words = {
        "npm": ["npm", "pack", "--silent", package],
        "pip": [
            *("uv", "run", "--no-project", "--with", "pip", "python", "-m", "pip", "download"),
            *("--quiet", "--no-deps", "--no-binary", name, package),
        ],
        "go": ["go", "mod", "download", "-json", package],
    }[tool]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{package}: {(done.stderr or done.stdout).strip()[-200:]}")
    if tool == "go":
        return Path(json.loads(done.stdout)["Zip"])
    (file,) = folder.iterdir()
    return file


def _inside(package: Path) -> Iterator[tuple[str, bytes]]:
    """The archives in a package's file, by name."""
    found: dict[str, bytes] = {}
    if package.suffix == ".zip":
        with zipfile.ZipFile(package) as archive:
            for info in archive.infolist():
                if _ARCHIVE.search(info.filename) and info.file_size <= _LARGEST:
                    found[info.filename] = archive.read(info)
    else:
        with tarfile.open(package) as tar:
            for member in tar:
                if _ARCHIVE.search(member.name) and member.isfile() and member.size <= _LARGEST:
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name] = file.read()
    for name, data in found.items():
        plain = base64.b64decode(data) if name.endswith(".base64") else data
        yield name.rpartition("/")[2], plain


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tool", PACKAGES)
def test_archives_in_packages(tool: str, extractor: Extractor, tmp_path: Path) -> None:
    archives: dict[bytes, str] = {}
    for number, package in enumerate(PACKAGES[tool]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in _inside(_download(tool, package, folder)):
            archives.setdefault(data, name)
    registry = {"npm": "npm", "pip": "PyPI", "go": "Go"}[tool]
    named = [(name, data) for data, name in archives.items()]
    _judge(f"Archives inside packages of {registry}", named, extractor, tmp_path)
