"""Run the tests that a change touches directly: what `make test CHANGED=1` does.

A change is what differs from the branch that it will be merged into, files that Git does not know
yet included. Touched are test files that changed, that import a changed module, that lie where the
tests of a changed module lie, and those of a folder whose files are not Python. It is a first
look, within seconds: what lies further away is for `make test`.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = ("tests/layout/test_packages.py", "tests/layout/test_words.py")
"""Quick, and about every file."""
BY_FOLDER = {
    ".github/": ("tests/release/test_workflows.py",),
    "argocd/": (
        "tests/charts/test_schemas.py", "tests/charts/test_admission.py",
        "tests/release/validate/test_values.py",
    ),
    "charts/": (
        "tests/charts/test_schemas.py", "tests/charts/test_unit_suites.py",
        "tests/charts/test_posture.py", "tests/charts/test_reference.py",
    ),
    "docs/": (
        "tests/layout/test_inline_commands.py", "tests/layout/test_reading_path.py",
        "tests/layout/test_documented_commands.py", "tests/charts/test_docs.py",
    ),
    "values/": (
        "tests/layout/test_values.py", "tests/release/validate/test_values.py",
        "tests/charts/test_connectivity.py",
    ),
    "Dockerfile": ("tests/flow/test_1_image.py",),
    "Makefile": ("tests/layout/test_inline_commands.py",),
}  # fmt: skip
"""Tests of what is not Python, by the beginning of its path."""


def main() -> int:
    """Say which test files are touched, and run them; pytest's exit code."""
    parser = argparse.ArgumentParser(description="Run the tests that a change touches directly.")
    parser.add_argument("--base", default="", help="Commit to compare with; else origin/main.")
    parser.add_argument("--list", action="store_true", help="Only say which test files they are.")
    options, more = parser.parse_known_args()
    base = options.base or _base()
    changed = changed_files(ROOT, base)
    found = touched(ROOT, changed)
    every = sum(1 for _ in _tests(ROOT))
    sys.stderr.write(
        f"{len(changed)} files differ from {base[:12]}; they touch {len(found)} of {every} test "
        "files directly. `make test` runs all.\n"
    )
    sys.stdout.write("".join(f"{path}\n" for path in found))
    sys.stdout.flush()
    if options.list or not found:
        return 0
    command = [sys.executable, "-m", "pytest", "-m", "not e2e and not conformance", *more, *found]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def _base() -> str:
    """Where this branch left the one that it will be merged into."""
    for branch in ("origin/HEAD", "origin/main", "main"):
        done = subprocess.run(
            ["git", "-C", str(ROOT), "merge-base", "HEAD", branch],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout.strip()
    return "HEAD"


def changed_files(root: Path, base: str) -> list[str]:
    """Paths that differ from a commit in the folder as it is, and those that are new; sorted."""
    different = _git(root, "diff", "--name-only", "-z", base, "--")
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    return sorted({path for path in (different + new).split("\0") if path})


def touched(root: Path, changed: Iterable[str]) -> list[str]:
    """Test files that the changed files touch, sorted; those that are gone are none."""
    found: set[str] = set()
    modules: set[str] = set()
    for path in changed:
        found.update(*(tests for start, tests in BY_FOLDER.items() if path.startswith(start)))
        if not path.endswith(".py"):
            continue
        if path.startswith("tests/") and Path(path).name == "conftest.py":
            found.update(_in_folder(root, Path(path).parent))
        elif _is_test(Path(path)):
            found.add(path)
        else:
            modules.add(module_of(path))
            found.update(_mirrored(root, path))
    if modules:
        found.update(path for path in _tests(root) if _imported(root / path) & modules)
        found.update(ALWAYS)
    return sorted(path for path in found if (root / path).is_file())


def module_of(path: str) -> str:
    """``apps/proxy/src/proxy/cli.py`` as ``proxy.cli``."""
    parts = list(Path(path).with_suffix("").parts)
    if "src" in parts:
        parts = parts[parts.index("src") + 1 :]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_test(path: Path) -> bool:
    return path.parts[0] == "tests" and path.name.startswith("test_")


def _tests(root: Path) -> Iterator[str]:
    for path in sorted((root / "tests").rglob("test_*.py")):
        yield str(path.relative_to(root))


def _in_folder(root: Path, folder: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in (root / folder).glob("test_*.py")]


def _mirrored(root: Path, path: str) -> list[str]:
    """The tests of a module: the file of its name, else those of the folder like its own."""
    names = module_of(path).split(".")
    folder = Path("tests", *names[:-1])
    own = folder / f"test_{names[-1]}.py"
    return [str(own)] if (root / own).is_file() else _in_folder(root, folder)


def _imported(path: Path) -> set[str]:
    """Modules that a file imports, and what it imports from them, in dots."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


if __name__ == "__main__":
    sys.exit(main())
