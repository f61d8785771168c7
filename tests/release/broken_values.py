"""A copy of the shipped values to break, and what `release validate` says of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from release import validate
from release.render import helm
from release.validate.environment import Environment
from release.validate.files import duplicates
from release.validate.findings import merged
from release.validate.settings import variables

ROOT = Path(__file__).resolve().parents[2]


def copied(target: Path) -> Path:
    """What `release validate` reads of this repository, in an empty folder."""
    for folder in ("charts", "values", "argocd", "docs/reference", "cluster/manifests"):
        shutil.copytree(ROOT / folder, target / folder)
    return target


def replaced(root: Path, path: str, old: str, new: str) -> None:
    """Replace a text that a file must have."""
    file = root / path
    text = file.read_text()
    assert old in text, f"{path} has no {old!r}"
    file.write_text(text.replace(old, new))


def added(root: Path, path: str, text: str) -> None:
    """Add a text to a file, which is made if it is not there."""
    file = root / path
    file.write_text((file.read_text() if file.exists() else "") + text)


def found(root: Path, environment: str = "dev") -> list[validate.Finding]:
    """What the checks of values say of one environment, without kubeconform."""
    listed = {name: helm.releases(root, name) for name in helm.environments(root)}
    results = helm.render_all(root, listed[environment], placeholders=True)
    seen = Environment(
        root,
        {result.release: result.manifests for result in results if not result.error},
        frozenset(result.release.name for result in results if result.error),
        {name: frozenset(row.name for row in rows) for name, rows in listed.items()},
    )
    settings, _ = variables.read(root)
    every = [*duplicates.findings(root)]
    every += validate.cross_checks(seen, settings)
    return merged(every)
