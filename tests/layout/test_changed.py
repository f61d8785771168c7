"""tests.changed: which test files a change touches."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.changed import ALWAYS, BY_FOLDER, ROOT, changed_files, module_of, touched


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_every_test_file_that_is_named_is_there() -> None:
    named = {path for tests in (*BY_FOLDER.values(), ALWAYS) for path in tests}
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ("apps/kit/src/kit/oip/integers.py", "tests/kit/oip/test_integers.py"),
        ("apps/release/src/release/describe/pod.py", "tests/release/describe/test_describe.py"),
        ("tests/s3.py", "tests/release/changes/test_models.py"),
        ("tests/release/conftest.py", "tests/release/test_workflows.py"),
        ("charts/service/templates/deployment.yaml", "tests/charts/test_unit_suites.py"),
        (".github/workflows/ci.yaml", "tests/release/test_workflows.py"),
        ("docs/flow.md", "tests/layout/test_inline_commands.py"),
    ],
)
def test_a_change_touches_its_tests(changed: str, wanted: str) -> None:
    found = touched(ROOT, [changed])
    assert wanted in found
    if changed.startswith("apps/"):
        assert set(ALWAYS) <= set(found)
    every = len(list((ROOT / "tests").rglob("test_*.py")))
    assert len(found) < every / 3


def test_nothing_that_is_known_touches_nothing() -> None:
    assert touched(ROOT, ["NOTICE"]) == []
    assert touched(ROOT, ["tests/kit/test_gone.py"]) == []


def test_modules_are_named_as_they_are_imported() -> None:
    assert module_of("apps/proxy/src/proxy/jobs/__init__.py") == "proxy.jobs"
    assert module_of("tests/s3.py") == "tests.s3"


def test_what_git_does_not_know_yet_is_a_change(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("ignored\n")
    for name in ("same.py", "edited.py", "gone.py"):
        (tmp_path / name).write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    base = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "edited.py").write_text("a = 2\n")
    (tmp_path / "gone.py").unlink()
    (tmp_path / "ignored").touch()
    (tmp_path / "új.py").touch()
    assert changed_files(tmp_path, base) == ["edited.py", "gone.py", "új.py"]
    git(tmp_path, "commit", "-qam", "Edit")
    assert changed_files(tmp_path, base) == ["edited.py", "gone.py", "új.py"]
