"""`release version`: tags of main and CHANGELOG.md say which version this is."""

from __future__ import annotations

import json
import subprocess
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from release.cli import app
from release.errors import BadReferenceError, BadValuesError, ConflictError
from release.records import versions
from release.records.versions import Version, read, released

ROOT = Path(__file__).resolve().parents[3]
TEXT = "# Changes\n\n## Unreleased\n\n### Added\n\n- One.\n\n## 1.2.3 (2026-01-01)\n\n- Old.\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "CHANGELOG.md").write_text(TEXT)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.name", "t")
    git(tmp_path, "config", "user.email", "t@example.org")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    return tmp_path


def version(repo: Path, *arguments: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["version", "--root", str(repo), *arguments])
    return answer.exit_code, answer.stdout.strip()


def test_the_next_version_is_a_commit_and_a_tag(repo: Path) -> None:
    assert version(repo)[1].startswith("0.0.0+1.g")
    git(repo, "tag", "v1.2.3")
    git(repo, "tag", "v9-of-somebody")  # no version
    assert version(repo) == (0, "1.2.3")
    assert version(repo, "--next", "minor", "--dry-run") == (0, "1.3.0")
    assert git(repo, "tag").split() == ["v1.2.3", "v9-of-somebody"]
    assert version(repo, "--next", "minor") == (0, "1.3.0")
    assert git(repo, "log", "-1", "--format=%s") == "Release 1.3.0"
    assert git(repo, "rev-parse", "v1.3.0^{commit}") == git(repo, "rev-parse", "HEAD")
    assert git(repo, "status", "--porcelain") == ""
    assert version(repo) == (0, "1.3.0")
    text = (repo / "CHANGELOG.md").read_text()
    assert text.index("## Unreleased") < text.index("## 1.3.0 (") < text.index("- One.")
    code, said = version(repo, "--next", "patch", "--json")
    assert code != 0, "nothing is unreleased any more"
    assert "nothing under Unreleased" in json.loads(said)["message"]


def test_what_is_not_committed_is_no_part_of_a_version(repo: Path) -> None:
    (repo / "mine.txt").write_text("mine")
    assert version(repo, "--next", "major")[0] != 0
    assert git(repo, "tag") == ""
    assert (repo / "CHANGELOG.md").read_text() == TEXT


@pytest.mark.parametrize(
    ("text", "error"),
    [("# Changes\n", BadValuesError), (TEXT.replace("1.2.3", "2.0.0"), ConflictError)],
)
def test_a_changelog_that_does_not_fit_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        released(text, Version(2, 0, 0), date(2026, 11, 28))


@pytest.mark.parametrize("text", ["1.2", "1.2.3-rc1", "01.2.3", "", "v1.2.3.4", "one"])
def test_what_is_no_semantic_version_is_refused(text: str) -> None:
    with pytest.raises(BadReferenceError):
        read(text)


@given(st.tuples(*[st.integers(0, 10**6)] * 3), st.sampled_from(["major", "minor", "patch"]))
def test_the_next_version_is_higher_and_reads_as_it_is_written(
    numbers: tuple[int, int, int], part: versions.Part
) -> None:
    before = Version(*numbers)
    after = before.following(part)
    assert after > before
    assert read(after.tag) == after == read(str(after))


def test_the_shipped_changelog_can_be_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## 99.0.0 (2026-11-28)" in released(text, Version(99, 0, 0), date(2026, 11, 28))
