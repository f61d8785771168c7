"""kit.oip.integers: which JSON numbers are integers, at the boundaries."""

from __future__ import annotations

import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.oip.integers import integer_of, shape_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6400", 6400),
        ("6400.0", 6400),
        ("6.4e3", 6400),
        ("-0.0", 0),
        ("-3", -3),
        ("9007199254740992.0", 2**53),
        ("18446744073709551615", 2**64 - 1),
        ("0.5", None),
        ("9007199254740994.0", None),  # past 2**53 a float may mean a neighbour
        ("1e300", None),
        ("true", None),
        ("null", None),
        ('"1"', None),
        ("[1]", None),
    ],
)
def test_a_number_without_a_fraction_is_an_integer(text: str, expected: int | None) -> None:
    found = integer_of(orjson.loads(text))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_none(value: float) -> None:
    assert integer_of(value) is None


@given(st.lists(st.integers(0, 2**53) | st.integers(0, 2**53).map(float)))
def test_a_shape_is_read_in_either_writing(sizes: list[int | float]) -> None:
    found = shape_of(sizes)
    assert found == sizes
    assert found is not None
    assert all(type(size) is int for size in found)


@pytest.mark.parametrize("shape", [(1, 2), [1, -1], [1.0, -1.0], [1, 2.5], [True], [None], "12"])
def test_what_is_no_shape_is_none(shape: object) -> None:
    assert shape_of(shape) is None
