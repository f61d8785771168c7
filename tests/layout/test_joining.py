"""What somebody who joins needs: licence, hooks, templates, updates and a table of versions."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
ELSEWHERE = ROOT / "cluster/src/cluster/elsewhere.py"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the hooks of this one, made as CONTRIBUTING.md says."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    subprocess.run(["pre-commit", "install"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def commit(clone: Path, message: str) -> subprocess.CompletedProcess[str]:
    """Make an empty commit, with git's own call of the hooks."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    return subprocess.run(
        ["git", *author, "commit", "--allow-empty", "--message", message],
        cwd=clone, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_long_subject_is_refused_by_the_hook(clone: Path) -> None:
    done = commit(clone, "x" * 73 + "\n\nWhy.")
    assert done.returncode != 0
    assert "the subject has at most 72 characters" in done.stdout + done.stderr


def test_a_subject_of_72_characters_passes_with_a_longer_line_below(clone: Path) -> None:
    done = commit(clone, "x" * 72 + "\n\n" + "y" * 100)
    assert done.returncode == 0, done.stderr


def test_the_licence_is_apache_and_its_notice_names_what_is_shipped() -> None:
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in licence
    assert "APPENDIX: How to apply" in licence
    notice = (ROOT / "NOTICE").read_text("utf-8")
    for path in re.findall(r"docs/[\w./-]+", notice):
        assert (ROOT / path).exists(), path


def test_every_kind_of_dependency_is_updated() -> None:
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text("utf-8"))["updates"]
    kinds = {each["package-ecosystem"] for each in updates}
    assert kinds == {"uv", "github-actions", "docker", "gomod"}
    modules = {path.parent for path in ROOT.glob("**/go.mod") if ".venv" not in path.parts}
    assert {path.parent for path in modules} == {ROOT / "cluster/programs"}


@pytest.mark.parametrize("name", ["defect.yml", "wish.yml"])
def test_a_form_asks_each_thing_under_a_label(name: str) -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / name).read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    labels = [each["attributes"]["label"] for each in form["body"]]
    assert len(labels) == len(set(labels)) > 1


def test_the_supported_versions_are_those_that_are_pinned() -> None:
    text = (ROOT / "docs/support.md").read_text("utf-8")
    shown = dict(re.findall(r"^\| ([\w ]+?) \| ([^|]+?) \|", text, re.M))
    pinned = (ROOT / "cluster/programs/platform/go.mod").read_text("utf-8")
    for name, module in (
        ("Kubernetes", r"k8s\.io/kubernetes"),
        ("Argo CD", r"github\.com/argoproj/argo-cd/v3"),
    ):
        found = re.search(rf"{module} v(\d+\.\d+)\.", pinned)
        assert found is not None
        assert shown[name] == found[1]
    istio = re.search(r'"istiod": "istio/pilot:(\d+\.\d+)', ELSEWHERE.read_text("utf-8"))
    assert istio is not None
    assert shown["Istio"] == f"{istio[1]} (sidecars)"
    matrix = yaml.safe_load((GITHUB / "workflows/ci.yaml").read_text("utf-8"))
    assert shown["Python"].split(", ") == matrix["jobs"]["test"]["strategy"]["matrix"]["python"]
