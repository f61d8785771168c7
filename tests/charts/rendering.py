"""Renders what Argo CD would: the rows of argocd/environments with their value files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from release.render.helm import Release, environments
from release.render.helm import releases as rows
from release.values import layout
from tests import programs

ROOT = Path(__file__).resolve().parents[2]
CHARTS = ("environment", "routing", "service")
ENVIRONMENTS = tuple(environments(ROOT))
# What `release` would have written: no image is deployed in a fresh repository.
DEPLOYED = ROOT / "charts/service/tests/deployed.yaml"
MODEL = ROOT / "charts/service/tests/models.yaml"

Manifest = dict[str, Any]


def application_set(environment: str) -> Manifest:
    """The ApplicationSet of an environment."""
    text = (ROOT / layout.environment_file(environment)).read_text(encoding="utf-8")
    document: Manifest = yaml.safe_load(text)
    return document


def releases(environment: str) -> list[Release]:
    """Every release of an environment, with the value files that exist and those that do not."""
    return rows(ROOT, environment)


def namespace(environment: str = "dev", name: str = "", root: Path = ROOT) -> str:
    """The Namespace that argocd/projects makes for an environment, as YAML; or one like it."""
    text = (root / layout.project_file(environment)).read_text(encoding="utf-8")
    [made] = [one for one in manifests(text) if one["kind"] == "Namespace"]
    made["metadata"]["name"] = name or environment
    if name:  # it is no environment, and has hosts of its own
        del made["metadata"]["labels"]["slipway/environment"]
    return yaml.safe_dump(made)


ALL_RELEASES = [release for name in ENVIRONMENTS for release in releases(name)]


def helm(
    chart: Path,
    name: str,
    namespace: str,
    files: Iterable[Path] = (),
    sets: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run `helm template`."""
    command = [programs.require("helm"), "template", name, str(chart), "--namespace", namespace]
    for path in files:
        command += ["--values", str(path)]
    for one in sets:
        command += ["--set", one]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@cache
def render(release: Release, root: Path = ROOT) -> str:
    """A release's manifests as YAML, as if an image and a model were deployed.

    ``root`` is another copy of the repository's charts and values.
    """
    files = [root / path for path in release.files]
    if release.chart == "service":
        files.append(DEPLOYED)
        if any(path.endswith(".models.yaml") for path in release.files):
            files.append(MODEL)
    answer = helm(root / "charts" / release.chart, release.name, release.environment, files)
    assert answer.returncode == 0, f"{release}: {answer.stderr}"
    return answer.stdout


def manifests(text: str) -> list[Manifest]:
    """The documents of a YAML stream."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]
