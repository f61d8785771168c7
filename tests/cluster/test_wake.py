"""cluster.wake: what a push wakes, as Argo CD's own webhook would."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.wake import PATHS, woken
from tests.charts.rendering import ALL_RELEASES, application_set


def application(name: str, folder: str, paths: str = "") -> dict[str, Any]:
    annotations = {PATHS: paths} if paths else {}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"source": {"path": folder}},
    }


@pytest.mark.parametrize(
    ("paths", "file", "expected"),
    [
        (".", "charts/service/templates/pod.yaml", True),
        (".", "charts/service-two/Chart.yaml", False),
        ("templates", "charts/service/templates/pod.yaml", True),
        ("../other", "charts/other/Chart.yaml", True),
        ("/values/dev", "values/dev/proxy.yaml", True),
        ("/values/dev/proxy.yaml", "values/dev/proxy.yaml", True),
        ("/values/dev/proxy.*", "values/dev/proxy.image.yaml", True),
        ("/values/dev/proxy.*", "values/dev/proxy-two.yaml", False),
        ("/values/*", "values/dev/proxy.yaml", False),
        (".; /values/dev ;", "values/dev/proxy.yaml", True),
        (";", "README.md", True),
        ("", "README.md", True),
        ("/values/dev/[", "values/dev/proxy.yaml", False),
    ],
)
def test_a_file_is_of_an_application(paths: str, file: str, expected: bool) -> None:
    one = application("one", "charts/service", paths)
    assert woken([one], [file]) == (["one"] if expected else [])


def test_when_nobody_knows_what_changed_all_are_woken() -> None:
    assert woken([application("one", "a", "."), application("two", "b")], None) == ["one", "two"]


def test_a_commit_to_nothing_wakes_nobody() -> None:
    assert woken([application("one", "a", ".")], []) == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("values/stage/proxy.image.yaml", {"stage-proxy"}),
        ("values/stage/inference.models.yaml", {"stage-inference"}),
        ("values/services/worker/service.yaml", {"dev-worker", "stage-worker", "prod-worker"}),
        ("charts/routing/values.yaml", {"dev-routing", "stage-routing", "prod-routing"}),
        ("apps/proxy/pyproject.toml", set()),
        ("values/promotion.yaml", set()),
    ],
)
def test_a_commit_wakes_what_is_deployed_of_it(file: str, expected: set[str]) -> None:
    deployed = []
    for release in ALL_RELEASES:
        template = application_set(release.environment)["spec"]["template"]
        paths = template["metadata"]["annotations"][PATHS].replace("{{ .release }}", release.name)
        name = f"{release.environment}-{release.name}"
        deployed.append(application(name, f"charts/{release.chart}", paths))
    assert set(woken(deployed, [file])) == expected
