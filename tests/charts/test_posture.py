"""What a strict reviewer's tools say about everything that is shipped: nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.charts.posture import checkov, kube_score
from tests.charts.rendering import (
    ALL_RELEASES,
    DEPLOYED,
    ENVIRONMENTS,
    ROOT,
    helm,
    releases,
    render,
)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_kube_score_finds_nothing(environment: str) -> None:
    # Together, since budgets and network policies are looked up for the pods they select.
    text = "\n---\n".join(render(release) for release in releases(environment))
    assert kube_score(text) == []


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    for release in ALL_RELEASES:
        (tmp_path / f"{release.environment}-{release.name}.yaml").write_text(
            render(release), encoding="utf-8"
        )
    assert checkov(tmp_path) == []


def test_an_autoscaler_takes_an_explained_finding() -> None:
    """Found: it had no annotation, so the finding about its one pod could not be explained."""
    found = []
    for more in ([], ["findings.horizontalpodautoscaler-replicas=one is enough here"]):
        sets = ["autoscaling.enabled=true", *more]
        answer = helm(ROOT / "charts/service", "x", "dev", [DEPLOYED], sets)
        assert answer.returncode == 0, answer.stderr
        found.append([one for one in kube_score(answer.stdout) if "autoscaler" in one.lower()])
    assert len(found[0]) == 1
    assert found[1] == []
