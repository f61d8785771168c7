"""The values that the pages show render, and every alert has its paragraph."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import DEPLOYED, ROOT, helm, manifests

PAGES = sorted((ROOT / "docs").glob("**/*.md"))
_BLOCK = re.compile(r"```yaml\n# values/dev/([a-z-]+)\.yaml\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)")
CHARTS = {"routing": "routing", "environment": "environment"}
BLOCKS = [
    pytest.param(name, text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (name, text) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("release", "text"), BLOCKS)
def test_shown_values_render(release: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(text, encoding="utf-8")
    chart = CHARTS.get(release, "service")
    files = [ROOT / f"values/base/{release}.yaml", path]
    if chart == "service":
        files.append(DEPLOYED)
    answer = helm(ROOT / "charts" / chart, release, "dev", files)
    assert answer.returncode == 0, answer.stderr


def test_pages_show_every_routing_pattern() -> None:
    shown = "\n".join(text for page in PAGES for _, text in _BLOCK.findall(page.read_text("utf-8")))
    for key in ("rules", "arms", "split", "mirror", "circuitBreaking", "outlierDetection", "fault"):
        assert f"{key}:" in shown, f"no page of docs/patterns shows {key}"


def test_every_alert_has_a_paragraph(tmp_path: Path) -> None:
    headings = {
        line.lstrip("# ").lower().replace(" ", "-")
        for line in (ROOT / "docs/operations.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    }
    found = set()
    for kind in ("Deployment", "CronJob"):
        answer = helm(
            ROOT / "charts/service", "x", "dev", sets=["monitoring.enabled=true", f"kind={kind}"]
        )
        for manifest in manifests(answer.stdout):
            if manifest["kind"] == "PrometheusRule":
                for rule in manifest["spec"]["groups"][0]["rules"]:
                    found.add(rule["annotations"]["runbook_url"].partition("#")[2])
    assert len(found) == 5
    assert found <= headings, "docs/operations.md must say what to do"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_blocks_are_yaml(page: Path) -> None:
    for text in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        yaml.safe_load(text)
