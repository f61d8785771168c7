"""Names of members: what the bytes say, and whether a key may be made of it.

Order of decoding, the choice recorded with each member:

1. ``utf-8-flag``: bit 11 of the flags (APPNOTE 4.4.4).
2. ``unicode-extra``: field 0x7075 whose CRC fits the raw name (APPNOTE 4.6.9).
3. ``ascii``.
4. for the rest, one charset per archive: the setting's, else by evidence (``charsets``).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress

from unzip.refusals import Reason, Refused
from unzip.zip.charsets import Decision
from unzip.zip.headers import FLAG_UTF8, UNICODE_PATH, shown

MAX_COMPONENT_BYTES = 255
SPARE_BYTES = 2  # for "./" in front, which does not count
# The Finder keeps a folder's icon in a file of this name; its data are in the second.
_FINDER_ICONS = ("Icon\r", "._Icon\r")
# Unicode's categories Cc and Cs: control characters, and halves of a character.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DRIVE = re.compile(r"^[A-Za-z]:")
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


def set_charset(names: Sequence[bytes], charsets: Sequence[str]) -> Decision | None:
    """The first of the ``charsets`` in the settings that decodes all names; None without any."""
    for charset in charsets:
        with suppress(UnicodeDecodeError):
            for name in names:
                name.decode(charset)
            return Decision(charset)
    if charsets:
        raise Refused(
            Reason.NAME_UNDECODABLE,
            f"UNZIP_NAME_CHARSETS ({','.join(charsets)}) has none that decodes all names",
        )
    return None


def decoded(raw: bytes, decision: Decision) -> tuple[str, str]:
    """The name and the charset it is in; Refused where the decision does not fit."""
    try:
        return decision.read(raw)
    except UnicodeDecodeError as error:
        raise Refused(Reason.NAME_UNDECODABLE, str(error), member=shown(raw)) from None


def checked_path(name: str, *, made_by: int, limit: int) -> str:
    """The path below ``result/`` for a member, "/" at the end for a folder; or Refused.

    ``made_by`` is the upper byte of "version made by"; ``limit`` is how many bytes of UTF-8
    the path may have (a key has 1,024). "./" at the beginning, which `bsdtar -c .` writes, is
    removed; the archive's own root is "/".
    """

    def refuse(reason: Reason, detail: str) -> Refused:
        return Refused(reason, detail, member=name)

    if not name:
        raise refuse(Reason.NAME_EMPTY, "a member has no name")
    if made_by in _DOS_SYSTEMS and "/" not in name:
        name = name.replace("\\", "/")
    parts = name.replace("\\", "/").split("/")
    if any(_CONTROL.search(part) for part in parts if part not in _FINDER_ICONS):
        raise refuse(Reason.NAME_CONTROL_CHARACTER, "a name holds NUL or a control character")
    if ".." in parts:
        raise refuse(Reason.NAME_CLIMBS, "a name leads out of its folder by '..'")
    if parts[0] == "":
        raise refuse(Reason.NAME_ABSOLUTE, "a name starts at the root")
    if any(_DRIVE.match(part) for part in parts):
        raise refuse(Reason.NAME_DRIVE, "a component of a name starts with a drive")
    path = name
    while path.startswith("./"):
        path = path[2:]
    if not path:
        return "/"
    own = path.removesuffix("/").split("/")
    if any(part in ("", ".") for part in own):
        raise refuse(Reason.NAME_NOT_CLEAN, "a name has an empty or '.' component")
    length = len(path.encode())
    if length > limit:
        raise refuse(Reason.NAME_TOO_LONG, f"{length} bytes, at most {limit} fit a key")
    longest = max(len(part.encode()) for part in own)
    if longest > MAX_COMPONENT_BYTES:
        raise refuse(
            Reason.NAME_TOO_LONG,
            f"a component has {longest} bytes of UTF-8, at most {MAX_COMPONENT_BYTES} allowed",
        )
    return path


def same_path(name: str, path: str) -> bool:
    """Whether a local header's Unicode name leads to ``path``, whoever wrote its separators."""
    forms = {name, name.replace("\\", "/")}
    return any(form == path or form.removeprefix("./") == path for form in forms)
