"""release.values.merge: values laid over each other as Helm does it."""

from __future__ import annotations

import pytest

from release.values.merge import Values, laid_over


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({}, {"a": {"b": None}}, {"a": {}}),
        ({"a": 1}, {"a": False}, {"a": False}),
    ],
)
def test_maps_are_merged_the_rest_is_replaced_and_null_removes(
    below: Values, above: Values, merged: Values
) -> None:
    assert laid_over(below, above) == merged


def test_what_is_merged_stays_as_it_was() -> None:
    below, above = {"a": {"b": 1}}, {"a": {"c": None, "d": 2}}
    laid_over(below, above)
    assert (below, above) == ({"a": {"b": 1}}, {"a": {"c": None, "d": 2}})
