"""Commands of docs/release.md and README.md that need no cluster, run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.documented import ROOT, block
from tests.release.conftest import World


def test_verdicts_are_read_as_documented(world: World, tmp_path: Path) -> None:
    commit = world.push({"values/prod/proxy.yaml": "replicas: 2\n"}, "Deploy")
    world.git("notes", "--ref=verdicts", "add", "-m", '{"verdict": "deployed"}', commit)
    world.git("push", "-q", "origin", "refs/notes/verdicts")
    world.git("clone", "-q", str(world.remote), str(tmp_path / "another"))
    commands = block("docs/release.md", containing="git log --notes=verdicts").text
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path / "another",
        capture_output=True, text=True, check=False, env={**os.environ, **world.environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Notes (verdicts):" in done.stdout
    assert '{"verdict": "deployed"}' in done.stdout


def test_make_help_lists_every_target_that_says_what_it_does() -> None:
    assert "`make help` lists the rest" in (ROOT / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE):
        assert re.search(rf"^  {name} +[A-Z]", done.stdout, re.MULTILINE), name
    used = set(re.findall(r"^make ([a-z-]+)", block("README.md", containing="make status").text,
                          re.MULTILINE))  # fmt: skip
    assert used
    assert all(f"  {name} " in done.stdout for name in used)


def test_make_status_without_a_kubeconfig_says_what_to_set(world: World) -> None:
    """`-o setup`: no environment is made while others use it."""
    done = subprocess.run(
        ["make", "-o", "setup", "status"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **world.environment, "MANIFEST_REPO": str(world.remote),
             "KUBECONFIG": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "set KUBECONFIG, or pass --kubeconfig" in done.stderr
