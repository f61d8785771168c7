"""Dependencies point one way: kit <- services; the cluster knows nothing of the services."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Member and the members it may import. Services never import each other.
MAY_IMPORT: dict[str, set[str]] = {
    "kit": set(),
    "proxy": {"kit"},
    "inference": {"kit"},
    "unzip": {"kit"},
    "trainer": {"kit"},
    "release": {"kit"},
    "cluster": set(),
    "flow": {"cluster", "kit", "release", "trainer"},
}


def _folder(member: str) -> Path:
    apps = ROOT / "apps" / member
    return apps if apps.exists() else ROOT / member


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_every_member_is_known() -> None:
    members = {path.parent.name for path in ROOT.glob("apps/*/pyproject.toml")}
    members |= {path.parent.name for path in ROOT.glob("*/pyproject.toml")}
    assert members == MAY_IMPORT.keys()


@pytest.mark.parametrize("member", MAY_IMPORT)
def test_imports_point_one_way(member: str) -> None:
    wrong = []
    for path in sorted(_folder(member).glob("src/**/*.py")):
        others = _imports(path) & MAY_IMPORT.keys() - MAY_IMPORT[member] - {member}
        wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in sorted(others)]
    assert wrong == []


@pytest.mark.parametrize("member", MAY_IMPORT)
def test_members_are_declared_where_they_are_imported(member: str) -> None:
    project = tomllib.loads((_folder(member) / "pyproject.toml").read_text(encoding="utf-8"))
    declared = {
        name.removeprefix("slipway-").split("[")[0].split(">")[0].strip()
        for name in project["project"].get("dependencies", [])
        if name.startswith("slipway-")
    }
    imported: set[str] = set()
    for path in _folder(member).glob("src/**/*.py"):
        imported |= _imports(path) & MAY_IMPORT.keys() - {member}
    assert imported <= declared, "declare them in the member's pyproject.toml"
    assert declared <= MAY_IMPORT[member]
