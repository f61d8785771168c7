"""The NetworkPolicies allow exactly the connections of connectivity.txt."""

from __future__ import annotations

import pytest

from tests.charts.connectivity import TABLE, table
from tests.charts.rendering import ENVIRONMENTS


def test_nobody_else_may_talk() -> None:
    assert table() == TABLE.read_text(encoding="utf-8"), (
        "connections changed: if you meant it, run `python -m tests.charts.connectivity`"
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments_do_not_reach_each_other(environment: str) -> None:
    others = tuple(f"{name}/" for name in ENVIRONMENTS if name != environment)
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        source, _, rest = line.partition(" => ")
        if source.startswith(f"{environment}/"):
            assert not rest.startswith(others), line


def test_strangers_reach_nothing_and_are_not_reached() -> None:
    """Found: no pod but the listed ones was in an environment, so default-deny was not proved."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if "stranger" in line} == {
        # What everyone may ask.
        "dev/stranger[Pod] => istio-system/istiod[Pod] : TCP 15012",
        "dev/stranger[Pod] => kube-system/coredns[Pod] : TCP 53,UDP 53",
    }
    assert not any("0.0.0.0" in line for line in lines)
