"""The budget of one archive, and what exceeds it."""

from __future__ import annotations

from dataclasses import dataclass

from unzip.refusals import Reason, Refused
from unzip.zip.kinds import Kind
from unzip.zip.member import Member

LINK_TARGETS_BYTES = 4 << 20  # of all symbolic links together, which the manifest names


@dataclass(frozen=True, slots=True)
class Limits:
    """The budget of one archive. ``ratio`` counts only above ``ratio_free_bytes`` of output."""

    members: int = 100_000
    total_bytes: int = 64 << 30
    member_bytes: int = 64 << 30
    ratio: float = 250.0
    ratio_free_bytes: int = 16 << 20
    name_bytes: int = 900


def check_budget(members: list[Member], size: int, limits: Limits) -> None:
    """Refuse members of an archive of ``size`` bytes that come to more than ``limits``."""
    targets = sum(member.size for member in members if member.kind is Kind.SYMBOLIC_LINK)
    if targets > LINK_TARGETS_BYTES:
        raise Refused(
            Reason.DIRECTORY_TOO_LARGE,
            f"the targets of the symbolic links have {targets} bytes together, "
            f"at most {LINK_TARGETS_BYTES} allowed",
        )
    total = sum(member.size for member in members if member.kind is not Kind.FOLDER)
    if total > limits.total_bytes:
        raise Refused(
            Reason.TOO_LARGE, f"{total} bytes in all, at most {limits.total_bytes} allowed"
        )
    if total > limits.ratio_free_bytes and total > size * limits.ratio:
        raise Refused(
            Reason.RATIO_TOO_HIGH,
            f"{size} bytes would become {total}, {total / size:.0f}-fold; "
            f"at most {limits.ratio:.0f}-fold allowed",
        )
