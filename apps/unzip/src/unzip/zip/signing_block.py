"""The block of signatures that Android's tools put between an APK's members and its directory.

Layout: source.android.com, "APK Signature Scheme v2": its length (8 bytes, itself not counted),
pairs, its length again, 16 bytes of magic.
"""

from __future__ import annotations

import struct

from unzip.zip.headers import Read

MAGIC = b"APK Sig Block 42"
_LENGTH = struct.Struct("<Q")
_FOOTER = _LENGTH.size + len(MAGIC)


def signing_block_start(directory_at: int, read: Read) -> int:
    """Where the block before the directory begins; ``directory_at`` if there is none."""
    if directory_at < _LENGTH.size + _FOOTER:
        return directory_at
    footer = bytes(read(directory_at - _FOOTER, directory_at))
    (length,) = _LENGTH.unpack_from(footer)
    start = directory_at - length - _LENGTH.size
    if not footer.endswith(MAGIC) or length < _FOOTER or start < 0:
        return directory_at
    (again,) = _LENGTH.unpack(bytes(read(start, start + _LENGTH.size)))
    return start if again == length else directory_at
