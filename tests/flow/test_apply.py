"""`make apply`: an edit is committed alone, and only what it reaches is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flow import apply
from flow.cli import app
from flow.errors import FlowError
from tests.flow.conftest import copy_source, git
from tests.programs import require

KNOWN = ["dev", "prod", "stage"]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return copy_source(tmp_path / "source")


def test_an_edit_is_committed_and_nothing_else_is(repo: Path) -> None:
    proxy = repo / "values/dev/proxy.yaml"
    proxy.write_text(proxy.read_text() + "podLabels: {team: a}\n")
    (repo / "values/dev/a new file.yaml").write_text("a: 1\n")
    (repo / "notes.txt").write_text("mine")
    git(repo, "add", "notes.txt")
    changed = apply.commit_edits(repo, "")
    assert sorted(changed) == ["values/dev/a new file.yaml", "values/dev/proxy.yaml"]
    assert git(repo, "log", "-1", "--format=%s") == "Change a new file.yaml, proxy.yaml"
    assert git(repo, "status", "--porcelain") == "A  notes.txt"
    head = git(repo, "rev-parse", "HEAD")
    assert apply.commit_edits(repo, "again") == []
    assert git(repo, "rev-parse", "HEAD") == head


def test_a_file_that_was_moved_or_deleted_is_part_of_the_edit(repo: Path) -> None:
    git(repo, "mv", "values/dev/unzip.yaml", "values/dev/unzipper.yaml")
    (repo / "values/prod/unzip.yaml").unlink()
    changed = apply.commit_edits(repo, "Move")
    assert {"values/dev/unzipper.yaml", "values/dev/unzip.yaml", "values/prod/unzip.yaml"} == set(
        changed
    )
    assert git(repo, "status", "--porcelain") == ""
    assert git(repo, "log", "-1", "--format=%s") == "Move"


@pytest.mark.parametrize(
    ("path", "reached"),
    [
        ("values/dev/proxy.yaml", ["dev"]),
        ("argocd/environments/stage.yaml", ["stage"]),
        ("values/services/proxy/service.yaml", KNOWN),
        ("values/platform/one-machine.yaml", KNOWN),
        ("charts/service/values.yaml", KNOWN),
        ("argocd/root.yaml", KNOWN),
        ("values/promotion.yaml", KNOWN),
        ("apps/proxy/pyproject.toml", []),
        ("docs/flow.md", []),
    ],
)
def test_an_edit_reaches_its_environment_or_all(path: str, reached: list[str]) -> None:
    assert apply.touched([path], KNOWN) == reached


def test_what_is_not_valid_is_neither_committed_nor_pushed(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("helm", "kubeconform"):
        require(program)
    proxy = repo / "values/dev/proxy.yaml"
    proxy.write_text(proxy.read_text() + "replcas: 2\n")
    head = git(repo, "rev-parse", "HEAD")
    monkeypatch.setenv("CLUSTER", "none")  # it is not even looked for
    answer = CliRunner().invoke(app, ["apply", "--root", str(repo)])
    assert isinstance(answer.exception, FlowError)
    assert "replcas" in str(answer.exception)
    assert git(repo, "rev-parse", "HEAD") == head
    assert "replcas" in git(repo, "diff")
