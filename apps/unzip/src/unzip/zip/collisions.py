"""Paths that cannot live side by side: twins, files used as folders, the manifest's own."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable

from unzip.refusals import Reason, Refused


def check_together(paths: Callable[[], Iterable[bytes]], *, reserved: str) -> None:
    """Refuse paths (UTF-8, a folder's with "/" at its end) that cannot live side by side.

    Twins are compared in NFC, because many a consumer's file system does. A folder may be listed
    more than once. Memory is a few pointers for each path: no prefix is kept, because a path
    of a thousand bytes has five hundred of them, and no path in NFC.
    """
    own = reserved.encode()
    files: dict[int, bytes] = {}
    for path in paths():
        normal = _normal(path)
        if normal.partition(b"/")[0] == own:
            raise _refused(Reason.NAME_RESERVED, f"{reserved} is the manifest's own", path)
        if normal.endswith(b"/"):
            continue
        at, other = _find(normal, files)
        if other is not None:
            why = "two members have this name"
            if other != path:
                why += (
                    f", written as {other.decode()!a} and {path.decode()!a}: macOS "
                    "writes letters and their marks apart"
                )
            raise _refused(Reason.NAME_DUPLICATE, why, path)
        files[at] = path
    previous = b""
    for path in paths():
        normal = _normal(path)
        # Neighbours mostly share their folder: it is looked at only when it changes.
        folder = normal[: normal.rfind(b"/") + 1]
        if folder != previous:
            _check_parents(folder, files)
            previous = folder


def _find(normal: bytes, files: dict[int, bytes]) -> tuple[int, bytes | None]:
    """The path that is ``normal`` in NFC, if it is there, and where it is or belongs.

    Keys are hashes, counted up where another path has the same, so that the keys hold no bytes.
    """
    at = hash(normal)
    while (other := files.get(at)) is not None and _normal(other) != normal:
        at += 1
    return at, other


def _check_parents(folder: bytes, files: dict[int, bytes]) -> None:
    at = folder.find(b"/")
    while at >= 0:
        _, file = _find(folder[:at], files)
        if file is not None:
            raise _refused(Reason.FILE_AS_FOLDER, "a file has members below it", file)
        at = folder.find(b"/", at + 1)


def _normal(path: bytes) -> bytes:
    if path.isascii():
        return path
    text = path.decode()
    if unicodedata.is_normalized("NFC", text):
        return path
    return unicodedata.normalize("NFC", text).encode()


def _refused(reason: Reason, detail: str, path: bytes) -> Refused:
    return Refused(reason, detail, member=path.decode())
