"""Every suite runs, every fixture is read."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

from cluster import build, preflight

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SOURCES = sorted(path for path in TESTS.rglob("*.py") if "__pycache__" not in path.parts)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _functions(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(_tree(path)) if isinstance(node, kinds)}


def test_every_suite_would_be_collected() -> None:
    """pytest collects test_*.py: tests elsewhere never run, a test_*.py without tests is empty."""
    wrong = []
    for path in SOURCES:
        names = {name for name in _functions(path) if name.startswith(("test_", "Test"))}
        made = "as_state_machine_test" in (text := path.read_text(encoding="utf-8"))
        made = made or ".TestCase" in text or "schemathesis" in text
        if not path.name.startswith("test_"):
            wrong += [f"{path}: {name} would never run: name the file test_*.py" for name in names]
        elif not names and not made:
            wrong.append(f"{path}: no test in it")
    assert wrong == []


def test_no_test_hides_another() -> None:
    """Of two functions of one name only the last runs."""
    wrong = []
    for path in SOURCES:
        names = [node.name for node in _tree(path).body if isinstance(node, ast.FunctionDef)]
        wrong += [f"{path}: {name}" for name, count in Counter(names).items() if count > 1]
    assert wrong == []


def test_helm_unittest_finds_every_suite() -> None:
    """It reads *_test.yaml; the other files beside them are values that a suite names."""
    for folder in ROOT.glob("charts/*/tests"):
        text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*_test.yaml"))
        for path in folder.iterdir():
            if path.is_file() and not path.name.endswith("_test.yaml"):
                assert path.name in text, f"{path.relative_to(ROOT)} is neither suite nor values"
                assert "asserts:" not in path.read_text(encoding="utf-8"), (
                    f"{path.relative_to(ROOT)} would never run: end its name in _test.yaml"
                )


def test_every_fixture_is_read() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in [*SOURCES, *ROOT.glob("bench/**/*.py")]
    )
    globbed = {
        folder
        for folder in (TESTS / "fixtures").rglob("*")
        if folder.is_dir()
        and re.search(rf'fixtures/{folder.relative_to(TESTS / "fixtures")}"', sources)
    }
    for path in (TESTS / "fixtures").rglob("*"):
        if path.is_file() and path.name != ".gitkeep":
            assert path.parent in globbed or path.name in sources, (
                f"nobody reads {path.relative_to(ROOT)}"
            )


def test_fixtures_say_what_must_happen() -> None:
    for path in (TESTS / "fixtures/valid").glob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# chart: "), path.name
        assert lines[1].startswith("# Case: "), path.name
    for path in (TESTS / "fixtures/invalid").glob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# chart: "), path.name
        assert lines[1].startswith("# refused: "), path.name


def test_programs_that_tests_drive_are_brought_for_them() -> None:
    """Else they would be skipped, or fail in CI, on every machine that had no `make up` before."""
    calls = re.compile(r'\brequire\(\s*"([\w-]+)"')
    driven = {
        name
        for path in SOURCES
        if "pytest.mark.e2e" not in (text := path.read_text(encoding="utf-8"))
        for name in calls.findall(text)
    }
    brought = {program.name for program in build.FOR_TESTS} | set(preflight.TEST_PACKAGES)
    brought |= {build.PYTHON_CHECKER.partition("==")[0], "uv"}
    assert driven >= {"helm", "kubectl"}
    assert driven <= brought
