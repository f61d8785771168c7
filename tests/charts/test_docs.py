"""The values that the pages show render, and every alert has its paragraph."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import DEPLOYED, MODEL, ROOT, helm, manifests, releases

PAGES = sorted((ROOT / "docs").glob("**/*.md"))
PATTERNS = sorted((ROOT / "docs/patterns").glob("*.md"))
_BLOCK = re.compile(r"```yaml\n# values/dev/([a-z-]+)\.yaml\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)")
PLATFORM = ROOT / "values/platform/one-machine.yaml"
PLATFORMS = [
    text
    for page in PAGES
    for text in re.findall(
        r"```yaml\n# values/platform/[a-z-]+\.yaml\n(.*?)```",
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
]
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
    shared = ROOT / f"values/services/{release.partition('-challenger')[0]}/service.yaml"
    files = [PLATFORM, *([shared] if shared.exists() else []), path]
    if chart == "service":
        files.append(DEPLOYED)
    answer = helm(ROOT / "charts" / chart, release, "dev", files)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("text", PLATFORMS)
def test_a_shown_platform_is_one_that_every_release_takes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "platform.yaml"
    path.write_text(text, encoding="utf-8")
    shown = set(yaml.safe_load(text)["platform"]["peers"])
    for release in releases("dev"):
        files = [ROOT / one for one in release.files]
        # Where a page shows a part of the file, the rest is the one machine's.
        files = [path if one == PLATFORM and {"s3", "redis"} <= shown else one for one in files]
        files += [] if path in files else [path]
        files += [DEPLOYED] if release.chart == "service" else []
        files += [MODEL] if release.name == "inference" else []
        answer = helm(ROOT / "charts" / release.chart, release.name, "dev", files)
        assert answer.returncode == 0, answer.stderr


def _routing_keys() -> set[str]:
    """What a service's routes can be told, and the tokens of the environment."""
    schema = json.loads((ROOT / "charts/routing/values.schema.json").read_text(encoding="utf-8"))
    return {*schema["$defs"]["service"]["properties"], "jwt"} - {"port"}


@pytest.mark.parametrize("key", sorted(_routing_keys()))
def test_a_page_shows_every_routing_key(key: str) -> None:
    """Found: seven keys were looked for, so rate limits, CORS, tokens and more had no page."""
    shown = (text for page in PATTERNS for _, text in _BLOCK.findall(page.read_text("utf-8")))
    assert any(re.search(rf"\b{key}:", text) for text in shown), f"docs/patterns shows no {key}"


@pytest.mark.parametrize("page", PATTERNS, ids=lambda page: page.stem)
def test_a_pattern_has_a_picture_and_a_way_to_see_it_work(page: Path) -> None:
    """Found: four pages did not say how to see it work."""
    text = page.read_text(encoding="utf-8")
    assert "```mermaid\n" in text
    assert "\n## See it work\n" in text
    assert "| |\n" not in text, "a table has a blank cell"


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
