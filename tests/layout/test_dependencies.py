"""Dependencies point one way: kit <- services; the cluster knows nothing of the services."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from tests.members import members

ROOT = Path(__file__).resolve().parents[2]
# Member and the members it may import; those of apps/ that are not named here are services, which
# never import each other.
OTHERS: dict[str, set[str]] = {
    "kit": set(),
    "cluster": set(),
    "flow": {"cluster", "kit", "release", "trainer"},
}
MAY_IMPORT = {
    member.name.replace("-", "_"): OTHERS.get(member.name, {"kit"}) for member in members()
}


def _folder(member: str) -> Path:
    apps = ROOT / "apps" / member.replace("_", "-")
    return apps if apps.exists() else ROOT / member


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_every_member_that_is_named_is_there() -> None:
    assert (
        OTHERS.keys() | {"proxy", "inference", "unzip", "trainer", "release"} <= MAY_IMPORT.keys()
    )


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
