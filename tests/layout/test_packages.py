"""Inside of a service imports point one way as well, and folders and files stay small.

A package's row lists its parts from left to right: a part imports only parts to its left. A part is
a folder, or a file that lies beside the folders. Tests and generated files are not counted.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 400
MOST_FILES = 12
"""Files of one folder, ``__init__.py`` not counted."""

LAYERS: dict[str, list[str]] = {
    "kit": [
        "version", "json_names", "memory", "telemetry", "lifecycle", "settings", "oip", "pictures",
        "transforms", "transforms_reference", "http",
    ],
    "unzip": [
        "refusals", "metrics", "concurrency", "zip", "settings", "s3", "ledger", "extract",
        "announce", "processing", "triggers", "commands", "cli",
    ],
    "proxy": [
        "config", "settings", "telemetry", "server", "http", "store", "policy", "models",
        "predictions", "jobs", "services", "gateway", "worker", "app", "cli",
    ],
    "release": [
        "errors", "programs", "tls", "yaml_loader", "service_programs", "git", "values", "records",
        "cluster", "registry", "render", "diagnosis", "live", "checks", "status", "validate",
        "doctor", "create", "changes", "describe", "offline", "verification", "commands", "cli",
        "reference",
    ],
    "inference": [
        "errors", "settings", "repository", "row_independence", "batching", "models",
        "prediction_log", "engine", "server", "protocols", "fast_infer", "app", "service", "cli",
    ],
}  # fmt: skip


def _source(package: str) -> Path:
    return ROOT / "apps" / package / "src" / package


def _files(package: str) -> list[Path]:
    return [path for path in sorted(_source(package).rglob("*.py")) if "_pb2" not in path.name]


def _part(package: str, path: Path) -> str:
    return path.relative_to(_source(package)).with_suffix("").parts[0]


def _imported(package: str, path: Path) -> set[str]:
    """The modules of the package that a file imports, in dots and without the package's name."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{package}.") for name in modules if name.startswith(f"{package}.")}


@pytest.mark.parametrize("package", LAYERS)
def test_parts_of_a_package_import_only_what_is_to_their_left(package: str) -> None:
    layers = LAYERS[package]
    wrong = []
    for path in _files(package):
        part = _part(package, path)
        if part == "__init__":
            continue
        if part not in layers:
            wrong.append(f"{path.relative_to(ROOT)}: {part} has no place in LAYERS")
            continue
        for other in sorted({name.split(".")[0] for name in _imported(package, path)} - {part}):
            if other in layers and layers.index(other) > layers.index(part):
                wrong.append(f"{path.relative_to(ROOT)} imports {package}.{other}")
    assert wrong == []


@pytest.mark.parametrize("package", LAYERS)
def test_every_layer_is_there(package: str) -> None:
    parts = {_part(package, path) for path in _files(package)}
    assert set(LAYERS[package]) <= parts


def _module_circle(package: str) -> list[str]:
    """Modules that import each other in a ring, or nothing."""
    source = _source(package)
    graph: dict[str, set[str]] = {}
    for path in _files(package):
        name = ".".join(path.relative_to(source).with_suffix("").parts)
        graph[name.removesuffix(".__init__")] = _imported(package, path)
    edges = {
        name: {
            target
            for one in imported
            for target in (one, one.rpartition(".")[0])
            if target in graph and target != name
        }
        for name, imported in graph.items()
    }
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges[name]):
            if ring := walk(target, [*path, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(edges) if (ring := walk(name, []))), [])


@pytest.mark.parametrize("package", LAYERS)
def test_no_modules_import_each_other_in_a_ring(package: str) -> None:
    assert _module_circle(package) == []


@pytest.mark.parametrize("package", LAYERS)
def test_files_and_folders_stay_small(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} has {lines} lines, at most {MOST_LINES}"
        for path in _files(package)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    ]
    folders: dict[Path, int] = {}
    for path in _files(package):
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    wrong += [
        f"{folder.relative_to(ROOT)} has {count} files, at most {MOST_FILES}"
        for folder, count in folders.items()
        if count > MOST_FILES
    ]
    assert wrong == []
