"""Stage 3: charts and values become manifests, with the Helm that Argo CD uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from cluster.layout import default_layout
from flow import command


def releases(clone: Path, environment: str) -> list[dict[str, str]]:
    """The rows of an environment's ApplicationSet: release and chart."""
    document = yaml.safe_load((clone / "argocd" / f"{environment}.yaml").read_text())
    rows: list[dict[str, str]] = document["spec"]["generators"][0]["list"]["elements"]
    return rows


def render(clone: Path, environment: str) -> dict[str, list[dict[str, Any]]]:
    """The objects of each release of an environment, in the order of its ApplicationSet.

    Raises FlowError with Helm's own words where a value is refused.
    """
    rendered = {}
    for row in releases(clone, environment):
        name, chart = row["release"], row["chart"]
        files = [clone / "values" / "base" / f"{name}.yaml"]
        files += [
            clone / "values" / environment / f"{name}{suffix}.yaml"
            for suffix in ("", ".image", ".models")
        ]
        text = command.run(
            *("helm", "template", name, str(clone / "charts" / chart)),
            f"--namespace={environment}",
            *(f"--values={path}" for path in files if path.is_file()),
            environment={"PATH": f"{default_layout().bin}:{os.environ['PATH']}"},
        )
        rendered[name] = [document for document in yaml.safe_load_all(text) if document]
    return rendered
