"""kit.http.content_coding: what gzip and deflate may look like, within a bound."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.http.content_coding import (
    MOST_MEMBERS,
    BadCodedBodyError,
    UnpackedTooLargeError,
    unpack,
)


def test_a_gzip_body_of_several_members_is_all_of_them() -> None:
    """Found: 400 `something after its end`; RFC 1952, 2.2 allows them, and pigz writes them."""
    body = gzip.compress(b'{"a":') + gzip.compress(b"") + gzip.compress(b"1}" + b" " * 100_000)
    assert unpack(body, "gzip", 1 << 20) == b'{"a":1}' + b" " * 100_000
    with pytest.raises(UnpackedTooLargeError, match="more than 100006 bytes"):
        unpack(body, "gzip", 100_006)
    assert len(unpack(body, "gzip", 100_007)) == 100_007


@pytest.mark.parametrize(
    "body",
    [
        b"",
        gzip.compress(b"a")[:-1],
        gzip.compress(b"a") + b"\0",
        gzip.compress(b"a") + b"\x1f",
        gzip.compress(b"a") + gzip.compress(b"b")[:-1],
        gzip.compress(b"a") + zlib.compress(b"b"),
        zlib.compress(b"a") + zlib.compress(b"b"),
        zlib.compress(b"a") + gzip.compress(b"b"),
        gzip.compress(b"a") + gzip.compress(b"b") + b"rest",
        gzip.compress(b"a") + gzip.compress(b"b")[:-8] + b"\0" * 8,
    ],
)
def test_what_is_cut_short_or_has_something_else_behind_it_is_refused(body: bytes) -> None:
    with pytest.raises(BadCodedBodyError):
        unpack(body, "gzip", 100)


def test_members_are_bounded_for_each_costs_time() -> None:
    member = gzip.compress(b"")
    assert unpack(member * MOST_MEMBERS, "gzip", 100) == b""
    with pytest.raises(BadCodedBodyError, match="more than 1024 members: compress it as one"):
        unpack(member * (MOST_MEMBERS + 1), "gzip", 100)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.integers(0, 2000))
def test_any_members_within_any_limit(texts: list[bytes], limit: int) -> None:
    body = b"".join(map(gzip.compress, texts))
    plain = b"".join(texts)
    if len(plain) <= limit:
        assert unpack(body, "gzip", limit) == plain
    else:
        with pytest.raises(UnpackedTooLargeError):
            unpack(body, "gzip", limit)
