"""Paths: whatever a caller writes, what is passed on means the same to everybody."""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.paths import BadPathError, check, longest_prefix, model_path, without_stage

REFUSED = [
    b"/api/../v2",
    b"/api/x/..",
    b"/api/./x",
    b"/api/%2e%2e/x",
    b"/api/%2E%2e/x",
    b"/api/.%2e/x",
    b"/api/%252e%252e/x",
    b"/api/%25252e%25252e/x",
    b"/api/a%2fb",
    b"/api/a%2Fb",
    b"/api/a%252fb",
    b"/api/a%5cb",
    b"/api/a\\b",
    b"/api/a%00b",
    b"/api//x",
    b"/api/x%0d%0aHost:y",
    b"/api/x%7f",
    b"/api/..;/x",
    b"/api/..;a=b/x",
    b"/api/..%20/x",
    b"/api/%20./x",
    b"/api/.%20./x",
    b"/api/..%20;a/x",
    b"/api/%C0%AE%C0%AE/x",
    b"/api/%e0%80%ae%e0%80%ae/x",
    b"/api/a/..%C0%AFx",
    b"/api/a/..%C1%9Cx",
    b"/api/%",
    b"/api/%zz",
    b"/api/x y",
    b"/api/x<y",
    b"/api/\xff",
    b"api/x",
    b"",
]


@pytest.mark.parametrize("raw", REFUSED)
def test_ambiguous_paths_are_refused(raw: bytes) -> None:
    with pytest.raises(BadPathError):
        check(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"/api/x",
        b"/api/a%20b",
        b"/api/%ED%95%9C",
        b"/api/a.b/...",
        b"/api/a%20.b",
        b"/api/%C0%AF",
        b"/api/a:b@c",
        b"/",
    ],
)
def test_plain_paths_pass_unchanged(raw: bytes) -> None:
    assert check(raw) == raw


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6))
def test_what_passes_never_climbs_however_often_it_is_decoded(segments: list[str]) -> None:
    raw = ("/api/" + "/".join(quote(segment, safe="") for segment in segments)).encode()
    try:
        passed = check(raw)
    except BadPathError:
        return
    for _ in range(4):
        assert b"/../" not in passed + b"/" and b"/./" not in passed + b"/"
        assert b"\\" not in passed and b"\x00" not in passed
        assert passed.count(b"/") == raw.count(b"/")
        passed = unquote_to_bytes(passed)


@given(st.binary(max_size=60))
def test_any_bytes_pass_or_are_refused_by_name(raw: bytes) -> None:
    try:
        assert check(b"/" + raw) == b"/" + raw
    except BadPathError as error:
        assert str(error).startswith("the path")


@pytest.mark.parametrize(
    ("raw", "model", "rest", "verb"),
    [
        (b"/v2/models/digits", "digits", b"", ""),
        (b"/v2/models/digits/infer", "digits", b"/infer", "infer"),
        (b"/v2/models/a.b-c_1/versions/3/infer", "a.b-c_1", b"/versions/3/infer", "infer"),
        (b"/v2/models/digits/versions/3", "digits", b"/versions/3", ""),
        (b"/v2/models/digits/generate_stream", "digits", b"/generate_stream", "generate_stream"),
    ],
)
def test_model_paths(raw: bytes, model: str, rest: bytes, verb: str) -> None:
    found = model_path(raw)
    assert found is not None
    assert (found.model, found.rest, found.verb) == (model, rest, verb)


@pytest.mark.parametrize(
    "raw",
    [
        b"/v2/models/",
        b"/v2/models/../infer",
        b"/v2/models/a/load",
        b"/v2/models/a/infer/",
        b"/v2/models/a%2fb/infer",
        b"/v2/repository/models/a/unload",
        b"/v2/models/a/versions/../infer",
        b"/v2/models/a/infer\n",
    ],
)
def test_what_is_no_model_path(raw: bytes) -> None:
    assert model_path(raw) is None


def test_stage_prefixes_come_off_once_and_whole() -> None:
    prefixes = [b"/dev"]
    assert without_stage(b"/dev/v2/models/x", prefixes) == b"/v2/models/x"
    assert without_stage(b"/dev", prefixes) == b"/"
    assert without_stage(b"/device/x", prefixes) == b"/device/x"
    assert without_stage(b"/dev/dev/x", prefixes) == b"/dev/x"


def test_the_longest_key_wins_on_whole_segments() -> None:
    keys = ["", "users", "users/admin"]
    assert longest_prefix(b"users/admin/1", keys) == "users/admin"
    assert longest_prefix(b"users/administrator", keys) == "users"
    assert longest_prefix(b"usersx", keys) == ""
    assert longest_prefix(b"other", ["users"]) is None
