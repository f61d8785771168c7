"""What a member is: its name, its mode, its attributes and whether it holds data decide together.

No member with data ever counts as something that is skipped, but for a symbolic link, whose
data are its target: the manifest names that.
"""

from __future__ import annotations

import stat
from enum import StrEnum

from unzip.refusals import Reason, Refused

_UNIX_SYSTEMS = (3, 19)  # these put the mode in the upper half of the external attributes
_DOS_FOLDER = 0x10
LONGEST_LINK = 4095  # Linux's PATH_MAX without the NUL: what is longer is no link's target


class Kind(StrEnum):
    """What a member is."""

    FILE = "file"
    FOLDER = "folder"
    SYMBOLIC_LINK = "symbolic_link"
    DEVICE = "device"


def kind_of(path: str, *, made_by: int, attributes: int, size: int, compressed: int) -> Kind:
    """What the member is; Refused for a folder that holds data.

    ``made_by`` is the upper byte of "version made by", ``size`` and ``compressed`` are the bytes
    that the directory declares. Where no compressed byte is there, a folder's size is no data:
    some writers put the folder's own size there.
    """
    unix = stat.S_IFMT(attributes >> 16) if made_by in _UNIX_SYSTEMS else 0
    folder = path.endswith("/") or (
        unix == stat.S_IFDIR if unix else bool(attributes & _DOS_FOLDER)
    )
    if folder:
        if size and compressed:
            raise Refused(Reason.FOLDER_WITH_DATA, f"a folder holds {size} bytes", member=path)
        return Kind.FOLDER
    if unix == stat.S_IFLNK and size <= LONGEST_LINK:
        return Kind.SYMBOLIC_LINK
    if unix in (0, stat.S_IFREG, stat.S_IFLNK) or size:
        return Kind.FILE  # a pipe that was archived by its data, for one: `printf x | zip a.zip -`
    return Kind.DEVICE
