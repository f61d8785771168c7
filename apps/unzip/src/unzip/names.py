"""Names of members: what the bytes say, and whether a key may be made of it.

Order of decoding, the choice recorded with each member:

1. ``utf-8-flag``: bit 11 of the flags (APPNOTE 4.4.4).
2. ``unicode-extra``: field 0x7075 whose CRC fits the raw name (APPNOTE 4.6.9).
3. ``ascii``.
4. for the rest, one choice per archive, the first that decodes every such name:
   ``utf-8`` (macOS writes it without the flag), ``cp949`` (Korean Windows), ``cp437``.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable

from unzip.refusals import Reason, Refused

UNICODE_PATH = 0x7075
FLAG_UTF8 = 1 << 11
MAX_COMPONENT_BYTES = 255
_DRIVE = re.compile(r"^[A-Za-z]:")
_GUESSES = ("utf-8", "cp949", "cp437")
# The DOS family writes "\" where the format demands "/" (.NET before 4.6.1 did).
_DOS_SYSTEMS = (0, 10, 14)


def flagged_name(raw: bytes, flags: int, extra: dict[int, bytes]) -> tuple[str, str] | None:
    """Name and its source where the archive itself says how to read it; else None."""
    unicode = unicode_path(raw, extra.get(UNICODE_PATH))
    if flags & FLAG_UTF8:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(
                Reason.NAME_UNDECODABLE, f"the UTF-8 flag is set, the bytes are not: {error}"
            ) from None
        if unicode is not None and unicode != name:
            raise Refused(
                Reason.NAME_CONTRADICTORY, f"the Unicode extra field says {unicode!r}", member=name
            )
        return name, "utf-8-flag"
    if unicode is not None:
        return unicode, "unicode-extra"
    if raw.isascii():
        return raw.decode("ascii"), "ascii"
    return None


def unicode_path(raw: bytes, field: bytes | None) -> str | None:
    """The name in an 0x7075 field, or None where it is absent, stale or of another version."""
    if field is None or len(field) < 5 or field[0] != 1:
        return None
    if struct.unpack_from("<I", field, 1)[0] != zlib.crc32(raw):
        return None  # the name was changed by a tool that does not know the field
    try:
        return field[5:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(Reason.NAME_UNDECODABLE, f"the Unicode extra field: {error}") from None


def guess_encoding(names: Iterable[bytes]) -> str:
    """The encoding for all names of one archive that do not say theirs."""
    every = list(names)
    for encoding in _GUESSES:
        try:
            for name in every:
                name.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "cp437"  # decodes any byte, so the loop has returned


def checked_path(name: str, *, made_by: int, limit: int) -> str:
    """The path below ``result/`` for a member, "/" at the end for a folder; or Refused.

    ``made_by`` is the upper byte of "version made by"; ``limit`` is how many bytes of UTF-8
    the path may have (a key has 1,024).
    """

    def refuse(reason: Reason, detail: str) -> Refused:
        return Refused(reason, detail, member=name)

    if not name:
        raise refuse(Reason.NAME_EMPTY, "a member has no name")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise refuse(Reason.NAME_CONTROL_CHARACTER, "a name holds NUL or a control character")
    if made_by in _DOS_SYSTEMS and "/" not in name:
        name = name.replace("\\", "/")
    parts = name.replace("\\", "/").split("/")
    if ".." in parts:
        raise refuse(Reason.NAME_CLIMBS, "a name leads out of its folder by '..'")
    if parts[0] == "":
        raise refuse(Reason.NAME_ABSOLUTE, "a name starts at the root")
    if any(_DRIVE.match(part) for part in parts):
        raise refuse(Reason.NAME_DRIVE, "a component of a name starts with a drive")
    own = name.split("/")
    if own[-1] == "":
        own.pop()
    if any(part in ("", ".") for part in own):
        raise refuse(Reason.NAME_NOT_CLEAN, "a name has an empty or '.' component")
    if len(name.encode()) > limit:
        raise refuse(Reason.NAME_TOO_LONG, f"{len(name.encode())} bytes, at most {limit} fit a key")
    if any(len(part.encode()) > MAX_COMPONENT_BYTES for part in own):
        raise refuse(Reason.NAME_TOO_LONG, f"a component has over {MAX_COMPONENT_BYTES} bytes")
    return name


def check_together(paths: Iterable[str], *, reserved: str) -> None:
    """Refuse paths that cannot live side by side: twins, files used as folders, our manifest.

    Twins are compared in NFC, because many a consumer's file system does.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        normal = unicodedata.normalize("NFC", path)
        if normal.partition("/")[0] == reserved:
            raise Refused(Reason.NAME_RESERVED, f"{reserved} is the manifest's own", member=path)
        if normal.endswith("/"):
            if normal in folders:
                raise Refused(Reason.NAME_DUPLICATE, "a folder is listed twice", member=path)
            folders[normal] = path
            continue
        if normal in files:
            raise Refused(
                Reason.NAME_DUPLICATE,
                f"two members have this name: {files[normal]!r} and {path!r}",
                member=path,
            )
        files[normal] = path
    parents = {f.rstrip("/") for f in folders}
    seen: set[str] = set()
    for normal in (*files, *folders):
        parent = normal.rstrip("/").rpartition("/")[0]
        while parent and parent not in seen:
            seen.add(parent)
            parent = parent.rpartition("/")[0]
    for parent in parents | seen:
        if parent in files:
            raise Refused(
                Reason.FILE_AS_FOLDER, "a file has members below it", member=files[parent]
            )
