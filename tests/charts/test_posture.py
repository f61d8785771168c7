"""What a strict reviewer's tools say about everything that is shipped: nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.charts.posture import checkov, kube_score
from tests.charts.rendering import ALL_RELEASES, ENVIRONMENTS, releases, render


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_kube_score_finds_nothing(environment: str) -> None:
    # Together, since budgets and network policies are looked up for the pods they select.
    text = "\n---\n".join(render(release) for release in releases(environment))
    assert kube_score(text) == []


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    for release in ALL_RELEASES:
        (tmp_path / f"{release}.yaml").write_text(render(release), encoding="utf-8")
    assert checkov(tmp_path) == []
