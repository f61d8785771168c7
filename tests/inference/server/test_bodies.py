"""inference.server: lengths, Accept headers."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import BadRequest, TooLarge, UnsupportedMediaType
from inference.server.bodies import codings, content_length, unpack
from inference.server.exchange import accepts


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"+1", b"0x1", b"9" * 16, b"\xb2"])
def test_what_is_no_length_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest, match="Some-Length"):
        content_length(value, "Some-Length")


def test_lengths() -> None:
    assert content_length(None, "x") is None
    assert content_length(b"12", "x") == 12


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_unpacking_never_gives_more_than_the_limit(body: bytes, limit: int) -> None:
    try:
        assert unpack(gzip.compress(body), "gzip", limit) == body
        assert len(body) <= limit
    except TooLarge:
        assert len(body) > limit


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        (None, []), (b"", []), (b"identity", []), (b"GZIP", ["gzip"]), (b"X-Gzip", ["x-gzip"]),
        (b"gzip, identity", ["gzip"]), (b" Deflate ,GZip", ["gzip", "deflate"]),
    ],
)  # fmt: skip
def test_codings_are_known_in_any_case_and_undone_from_the_last(
    encoding: bytes | None, found: list[str]
) -> None:
    assert codings(encoding) == found


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, br", b"gz\xff", b"gzip,gzip,gzip"])
def test_a_coding_that_is_not_known_is_refused(encoding: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding"):
        codings(encoding)


@given(st.binary(max_size=200))
def test_what_is_no_gzip_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        unpack(b"x" + body, "gzip", 1000)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("text/*", "text/csv"),
        ("application/json;q=0.2, text/csv;q=0.9", "text/csv"),
        ("text/csv;q=0, */*", "application/json"),
        ("image/png", None),
        ("text/csv;q=x", None),
    ],
)
def test_the_best_type_that_is_accepted_is_chosen(accept: str, chosen: str | None) -> None:
    assert accepts(accept, ("application/json", "text/csv")) == chosen
