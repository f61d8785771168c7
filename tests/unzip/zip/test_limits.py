"""The budget of an archive holds to the byte, and says which limit was exceeded."""

from __future__ import annotations

import pytest

from unzip.refusals import Reason, Refused
from unzip.zip.kinds import Kind
from unzip.zip.limits import LINK_TARGETS_BYTES, Limits, check_budget
from unzip.zip.member import Member


def _member(size: int, kind: Kind = Kind.FILE) -> Member:
    return Member(b"a", b"", "ascii", kind, 0, 0, 0, size, size, 0, size)


def _verdict(members: list[Member], size: int, limits: Limits) -> Reason | None:
    try:
        check_budget(members, size, limits)
    except Refused as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("total", "size", "limits", "reason"),
    [
        (100, 100, Limits(total_bytes=100), None),
        (101, 101, Limits(total_bytes=100), Reason.TOO_LARGE),
        (1000, 100, Limits(ratio=10.0, ratio_free_bytes=0), None),
        (1001, 100, Limits(ratio=10.0, ratio_free_bytes=0), Reason.RATIO_TOO_HIGH),
        (1001, 100, Limits(ratio=10.0, ratio_free_bytes=1000), Reason.RATIO_TOO_HIGH),
        (1001, 100, Limits(ratio=10.0, ratio_free_bytes=1001), None),
    ],
)
def test_the_limit_itself_is_allowed_and_one_byte_more_is_not(
    total: int, size: int, limits: Limits, reason: Reason | None
) -> None:
    assert _verdict([_member(total - 7), _member(7)], size, limits) is reason


def test_all_members_count_but_folders() -> None:
    limits = Limits(total_bytes=10)
    assert _verdict([_member(10), _member(99, Kind.FOLDER)], 10, limits) is None
    assert _verdict([_member(10), _member(1, Kind.DEVICE)], 10, limits) is Reason.TOO_LARGE
    assert _verdict([_member(10), _member(1, Kind.SYMBOLIC_LINK)], 10, limits) is Reason.TOO_LARGE


def test_targets_of_symbolic_links_have_a_budget_of_their_own() -> None:
    rest = _member(LINK_TARGETS_BYTES - 1, Kind.SYMBOLIC_LINK)
    for more, reason in ((1, None), (2, Reason.DIRECTORY_TOO_LARGE)):
        members = [rest, _member(more, Kind.SYMBOLIC_LINK), _member(1 << 30)]
        assert _verdict(members, 1 << 30, Limits()) is reason
