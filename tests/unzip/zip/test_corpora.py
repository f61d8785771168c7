"""Archives that others made to test their readers: a verdict for each, a wrong answer for none."""

from __future__ import annotations

import ast
import base64
import io
import shutil
import subprocess
import sysconfig
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unzip.support import verdict
from unzip.extract.extractor import Extractor
from unzip.refusals import Reason
from unzip.zip.charsets import decide

# Go reads some of what we refuse: it is lenient where two readers may differ.
GO: dict[str, Reason | None] = {
    "comment-truncated.zip": Reason.NO_END_RECORD,
    "crc32-not-streamed.zip": None,
    "dd.zip": None,
    "dupdir.zip": Reason.FILE_AS_FOLDER,
    "go-no-datadesc-sig.zip.base64": None,
    "go-with-datadesc-sig.zip": None,
    "readme.zip": Reason.TRAILING_DATA,
    "subdir.zip": None,
    "symlink.zip": Reason.NO_FILES,
    "test-badbase.zip": Reason.CONTRADICTORY_END_RECORD,
    "test-baddirsz.zip": Reason.CONTRADICTORY_END_RECORD,
    "test-prefix.zip": Reason.TRAILING_DATA,
    "test-trailing-junk.zip": Reason.TRAILING_DATA,
    "test.zip": None,
    "time-22738.zip": None,
    "time-7zip.zip": None,
    "time-go.zip": None,
    "time-infozip.zip": None,
    "time-osx.zip": None,
    "time-win7.zip": None,
    "time-winrar.zip": None,
    "time-winzip.zip": None,
    "unix.zip": None,
    "utf8-7zip.zip": None,
    "utf8-infozip.zip": None,
    "utf8-osx.zip": None,
    "utf8-winrar.zip": None,
    "utf8-winzip.zip": None,
    "winxp.zip": None,
    "zip64-2.zip": None,
    "zip64.zip": None,
}


def _go_folder() -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    root = subprocess.run([go, "env", "GOROOT"], capture_output=True, text=True, check=True)
    return Path(root.stdout.strip()) / "src" / "archive" / "zip" / "testdata"


def _agrees_with_python(data: bytes, ours: object) -> None:
    """What we accept, the standard library reads to the same names, sizes and CRCs."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except NotImplementedError:
        return  # made for a reader newer than Python's; we go by method and flags
    with archive:
        assert archive.testzip() is None
        theirs = {
            _named(info): (info.file_size, info.CRC)
            for info in archive.infolist()
            if not info.is_dir() and (info.external_attr >> 28) != 0xA
        }
    assert isinstance(ours, dict)
    assert dict(ours) == theirs


def _named(info: zipfile.ZipInfo) -> str:
    """Python takes CP437 for what has no flag; we look first whether it is UTF-8."""
    if info.flag_bits & 1 << 11:
        return info.filename
    raw = info.filename.encode("cp437")
    return (
        info.filename if raw.isascii() else raw.decode(decide([raw], {info.create_system}).charset)
    )


@pytest.mark.parametrize("name", GO)
def test_go(extractor: Extractor, name: str) -> None:
    data = (_go_folder() / name).read_bytes()
    if name.endswith(".base64"):
        data = base64.b64decode(data)
    ours = verdict(extractor, data)
    if GO[name] is not None:
        assert ours is GO[name]
    else:
        _agrees_with_python(data, ours)


def test_go_has_no_archive_without_a_verdict() -> None:
    there = {path.name for path in _go_folder().iterdir() if ".zip" in path.name}
    assert there <= set(GO), f"give these a verdict: {there - set(GO)}"


def _python_archives() -> Iterator[tuple[str, bytes]]:
    """Zip files of CPython's tests, and the byte strings in their source that are archives."""
    folder = Path(sysconfig.get_paths()["stdlib"]) / "test"
    for path in sorted(folder.rglob("*.zip")):
        yield path.name, path.read_bytes()
    for source in ("test_zipfile.py", "test_zipfile/test_core.py"):
        if not (folder / source).is_file():
            continue
        tree = ast.parse((folder / source).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.BinOp):
                try:
                    value = ast.literal_eval(node) if isinstance(node, ast.Constant) else _sum(node)
                except ValueError:
                    continue
                if isinstance(value, bytes) and value.startswith(b"PK") and len(value) > 60:
                    yield f"line-{node.lineno}", value


def _sum(node: ast.AST) -> bytes:
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _sum(node.left) + _sum(node.right)
    raise ValueError


_DAMAGE = (Reason.WRONG_CRC, Reason.WRONG_SIZE, Reason.CORRUPT_DATA, Reason.NO_END_RECORD)


def _python_reads(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error):
        return False


def test_cpython(extractor: Extractor) -> None:
    seen = accepted = 0
    for name, data in _python_archives():
        seen += 1
        ours = verdict(extractor, data)
        if not isinstance(ours, Reason):
            accepted += 1
            _agrees_with_python(data, ours)
            continue
        assert isinstance(ours, Reason)
        # What we say is damaged nobody else may read; for the rest we are strict on purpose.
        assert ours not in _DAMAGE or not _python_reads(data), (name, ours)
    if not seen:
        pytest.skip("this Python came without its tests")
    assert accepted
