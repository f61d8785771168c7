"""Names that one JSON object has twice, held against Python's own parser."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.json_names import repeated_name

NAMES = st.sampled_from(["a", "b", "a:b", 'q"', "\\", "{", "é", "a\n"])
SCALARS = st.one_of(st.none(), st.integers(-9, 9), NAMES)
PAIRS = "pairs"
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(st.tuples(NAMES, inner), max_size=3).map(lambda pairs: (PAIRS, pairs)),
    ),
    max_leaves=12,
)


def written(value: Any, ascii_only: bool) -> str:
    """JSON of a value whose objects are lists of pairs."""
    if isinstance(value, tuple):
        members = (
            f"{json.dumps(name, ensure_ascii=ascii_only)} : {written(inner, ascii_only)}"
            for name, inner in value[1]
        )
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(inner, ascii_only) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def has_twice(value: Any) -> bool:
    """Whether an object in it has a name twice."""
    if isinstance(value, tuple):
        names = [name for name, _ in value[1]]
        return len(set(names)) < len(names) or any(has_twice(inner) for _, inner in value[1])
    return isinstance(value, list) and any(map(has_twice, value))


@given(VALUES, st.booleans())
def test_a_name_is_found_exactly_where_one_object_has_it_twice(
    value: Any, ascii_only: bool
) -> None:
    document = written(value, ascii_only).encode()
    found = repeated_name(document, orjson.loads(document))
    assert (found is not None) == has_twice(value)


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (b'{"inputs": 1, "inputs": 2}', "inputs"),
        (b'{"a": 1, "\\u0061": 2}', "a"),
        (b'{"a": ["b:c"]}', None),
        (b'[{"a": {"a": 1}}, {"a": 2}]', None),
        (b'[1, {"a": 1, "a": 2}]', "a"),
        (b'{"a": "\\"a\\": 1", "b": "}"}', None),
    ],
)
def test_names(document: bytes, name: str | None) -> None:
    assert repeated_name(document, orjson.loads(document)) == name


def test_objects_as_deep_as_the_parser_takes_them_are_counted() -> None:
    """Found: 1,000 objects in one another were more frames than the interpreter has."""
    deep = b'{"a":' * 1000 + b"1" + b"}" * 1000
    assert repeated_name(deep, orjson.loads(deep)) is None
    twice = deep.replace(b"1", b'{"b":1,"b":2}', 1)
    assert repeated_name(twice, orjson.loads(twice)) == "b"
