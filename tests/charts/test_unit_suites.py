"""helm-unittest's suites, which lie beside each chart's templates."""

from __future__ import annotations

import subprocess

import pytest

from tests import programs
from tests.charts.rendering import CHARTS, ROOT


@pytest.mark.parametrize("chart", CHARTS)
def test_suites_pass(chart: str) -> None:
    command = [programs.require("helm-unittest"), "--strict", str(ROOT / "charts" / chart)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("chart", CHARTS)
def test_each_template_has_a_case_and_a_refusal(chart: str) -> None:
    folder = ROOT / "charts" / chart
    suites = [path.read_text(encoding="utf-8") for path in (folder / "tests").glob("*_test.yaml")]
    for template in sorted((folder / "templates").glob("*.yaml")):
        assert any(template.name in suite for suite in suites), (
            f"no suite in charts/{chart}/tests names {template.name}"
        )
    for path in sorted((folder / "tests").glob("*_test.yaml")):
        if path.name == "shipped-values_test.yaml":
            continue
        assert "failedTemplate" in path.read_text(encoding="utf-8"), (
            f"{path.relative_to(ROOT)} refuses nothing: add a case with failedTemplate"
        )
