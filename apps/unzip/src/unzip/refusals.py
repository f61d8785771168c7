"""Why an archive is refused: one name per reason, for logs, ledger, metrics and people."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The complete list; docs/unzip/refusals.md says what each one means and a test compares."""

    NO_END_RECORD = "no_end_record"
    CONTRADICTORY_END_RECORD = "contradictory_end_record"
    SECOND_END_RECORD = "second_end_record"
    TRAILING_DATA = "trailing_data"
    LEADING_DATA = "leading_data"
    UNACCOUNTED_DATA = "unaccounted_data"
    MULTI_DISK = "multi_disk"
    MALFORMED_HEADER = "malformed_header"

    NAME_EMPTY = "name_empty"
    NAME_ABSOLUTE = "name_absolute"
    NAME_CLIMBS = "name_climbs"
    NAME_DRIVE = "name_drive"
    NAME_CONTROL_CHARACTER = "name_control_character"
    NAME_NOT_CLEAN = "name_not_clean"
    NAME_TOO_LONG = "name_too_long"
    NAME_UNDECODABLE = "name_undecodable"
    NAME_CONTRADICTORY = "name_contradictory"
    NAME_RESERVED = "name_reserved"
    NAME_DUPLICATE = "name_duplicate"
    FILE_AS_FOLDER = "file_as_folder"
    FOLDER_WITH_DATA = "folder_with_data"
    NO_FILES = "no_files"

    LOCAL_HEADER_CONTRADICTS = "local_header_contradicts"
    DESCRIPTOR_CONTRADICTS = "descriptor_contradicts"
    OVERLAPPING_MEMBERS = "overlapping_members"
    ENCRYPTED = "encrypted"
    UNSUPPORTED_METHOD = "unsupported_method"
    WRONG_SIZE = "wrong_size"
    WRONG_CRC = "wrong_crc"
    CORRUPT_DATA = "corrupt_data"

    TOO_MANY_MEMBERS = "too_many_members"
    DIRECTORY_TOO_LARGE = "directory_too_large"
    TOO_LARGE = "too_large"
    MEMBER_TOO_LARGE = "member_too_large"
    RATIO_TOO_HIGH = "ratio_too_high"
    TOO_SLOW = "too_slow"
    TOO_MANY_ATTEMPTS = "too_many_attempts"


class Refused(Exception):  # noqa: N818 - an archive is refused, nothing erred
    """The archive is bad for good: it will be refused again until it changes.

    ``detail`` names the value and what would be right; ``member`` is the name as far as it
    could be read, or "" when the archive itself is meant.
    """

    def __init__(self, reason: Reason, detail: str, *, member: str = "") -> None:
        super().__init__(f"{reason}: {detail}" + (f" (member {member!r})" if member else ""))
        self.reason = reason
        self.detail = detail
        self.member = member
