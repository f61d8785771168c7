"""What the central directory alone decides, before a byte of any member is read."""

from __future__ import annotations

import pytest

from tests.unzip import zips
from unzip.refusals import Reason, Refused
from unzip.zip.central_directory import read_directory
from unzip.zip.limits import Limits


def _verdict(data: bytes, limits: Limits | None = None) -> Reason | None:
    try:
        read_directory(
            len(data),
            lambda start, end: data[start:end],
            limits or Limits(),
            reserved="_manifest.json",
        )
    except Refused as error:
        return error.reason
    return None


@pytest.mark.parametrize(("gap", "reason"), [(0, None), (-1, Reason.OVERLAPPING_MEMBERS)])
def test_a_member_may_begin_where_the_one_before_ends(gap: int, reason: Reason | None) -> None:
    first = zips.Entry(b"a", b"x" * 90, method=0)
    end = 30 + 1 + 90
    data = zips.build(first, zips.Entry(b"b", b"1", central={"offset": end + gap}))
    assert _verdict(data) is reason


def test_the_last_member_ends_before_the_directory() -> None:
    entry = zips.Entry(b"a", b"x" * 90, method=0)
    assert _verdict(zips.build(entry)) is None
    longer = zips.Entry(b"a", b"x" * 90, method=0, central={"size": 91, "compressed": 91})
    assert _verdict(zips.build(longer)) is Reason.OVERLAPPING_MEMBERS


def test_the_number_of_members_is_limited_to_the_member() -> None:
    data = zips.build(zips.A, zips.B)
    assert _verdict(data, Limits(members=2)) is None
    assert _verdict(data, Limits(members=1)) is Reason.TOO_MANY_MEMBERS
