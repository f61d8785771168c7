"""release.doctor.ref_patterns: rulesets' patterns mean what they mean to GitHub."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.doctor.ref_patterns import covers, matches

PATTERNS = {
    "refs/heads/main": ("main",),
    "refs/heads/m*": ("main", "m"),
    "refs/heads/*": ("main", "m", "qa-1"),
    "refs/heads/**/*": ("main", "m", "qa-1", "qa/foo", "qa/foo/bar"),
    "refs/heads/**": ("main", "m", "qa-1"),
    "refs/heads/qa/*": ("qa/foo",),  # the example of GitHub's page
    "refs/heads/qa/**/*": ("qa/foo", "qa/foo/bar"),
    "refs/heads/qa**/**/*": ("qa/foo", "qa/foo/bar"),
    "refs/heads/ma?n": ("main",),
    "refs/heads/[lm]ain": ("main",),
    "refs/heads/[a-m]*": ("main", "m"),
    "refs/heads/[!m]*": ("qa-1",),
    "refs/heads/qa?foo": (),  # a question mark is no slash
    "refs/heads/Main": (),
    "main": (),
    "refs/heads/m.in": (),
    "refs/heads/[z-a]": (),
    "~ALL": ("main", "m", "qa-1", "qa/foo", "qa/foo/bar"),
    "~DEFAULT_BRANCH": ("main",),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_the_branches_that_github_says(pattern: str) -> None:
    branches = ("main", "m", "qa-1", "qa/foo", "qa/foo/bar")
    assert tuple(one for one in branches if matches(pattern, one, "main")) == PATTERNS[pattern]


def test_what_is_excluded_is_not_covered() -> None:
    names = {"include": ["~ALL"], "exclude": ["refs/heads/m*"]}
    assert not covers({"conditions": {"ref_name": names}}, "main", "main")
    assert covers({"conditions": {"ref_name": names}}, "trunk", "main")
    for nothing in ({}, {"conditions": None}, {"conditions": {"ref_name": {"include": []}}}):
        assert not covers(nothing, "main", "main")


@given(st.text(alphabet=string.printable), st.text(alphabet="main/", min_size=1))
def test_no_pattern_is_too_strange(pattern: str, branch: str) -> None:
    assert matches(pattern, branch, "main") in (True, False)
