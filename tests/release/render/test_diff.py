"""`release diff`: what would be applied, secrets masked, in one comment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from release.cli import app
from release.render import diff
from release.render.diff import ApplicationDiff, ResourceDiff
from tests.programs import require
from tests.release.conftest import IDENTITY, digest

ROOT = Path(__file__).resolve().parents[3]


def manifest(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "x", "namespace": "dev", "labels": {"a": "b"}},
        **more,
    }


def text_of(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> str:
    return "\n".join(f"{r.change} {r.text}" for r in diff.resource_diffs(old, new))


def test_secrets_are_masked_and_their_change_is_seen() -> None:
    old = manifest("Secret", data={"a": "aHVudGVy", "same": "c2FtZQ=="})
    new = manifest("Secret", data={"a": "Y2hhbmdlZA==", "same": "c2FtZQ=="})
    text = text_of([old], [new])
    assert "aHVudGVy" not in text and "Y2hhbmdlZA" not in text and "c2FtZQ" not in text
    assert "+  a: '*** (changed)'" in text


def test_what_sounds_secret_is_masked_wherever_it_stands() -> None:
    def pod(value: str) -> dict[str, Any]:
        env = [{"name": "SLACK_WEBHOOK_URL", "value": value}, {"name": "LOG_LEVEL", "value": value}]
        return manifest("Pod", spec={"containers": [{"name": "x", "env": env}]})

    def config(value: str) -> dict[str, Any]:
        return manifest("ConfigMap", data={"PROXY_API_KEY": value, "PROXY_PORT": value})

    for make in (pod, config):
        text = text_of([make("before")], [make("after")])
        assert "(changed)" in text
        assert text.count("after") == 1  # only the one that is no secret


def test_a_new_secret_shows_no_value() -> None:
    text = text_of([], [manifest("Secret", stringData={"a": "hunter2"})])
    assert text.startswith("added")
    assert "hunter2" not in text


def test_a_new_chart_version_alone_is_no_difference() -> None:
    old, new = manifest("Service"), manifest("Service")
    old["metadata"]["labels"]["helm.sh/chart"] = "service-1"
    new["metadata"]["labels"]["helm.sh/chart"] = "service-2"
    assert text_of([old], [new]) == ""


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 9_000), max_size=2), max_size=6),
    error=st.sampled_from([0, 10, 100_000]),
    many=st.sampled_from([1, 20, 250]),
)
def test_a_comment_never_exceeds_what_the_host_takes(
    sizes: list[list[int]], error: int, many: int
) -> None:
    found = [
        ApplicationDiff(
            f"dev/application-{index}",
            tuple(ResourceDiff("Deployment", "dev", "x", "changed", "+ x```" * n) for n in lines),
            "e" * error if index == 0 else "",
        )
        for index, lines in enumerate(sizes * many)
    ]
    text = diff.markdown(found, "Title")
    assert len(text) <= diff.COMMENT_LIMIT
    assert text.startswith(diff.MARKER)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    require("helm")
    for folder in ("charts", "values", "argocd"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    commit(tmp_path, "Begin", init=True)
    return tmp_path


def commit(folder: Path, message: str, *, init: bool = False) -> None:
    commands = [["git", "init", "-q", "-b", "main"]] if init else []
    commands += [["git", "add", "."], ["git", "commit", "-q", "-m", message]]
    for command in commands:
        subprocess.run(command, cwd=folder, check=True, env=dict(os.environ))


def run(*arguments: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["diff", *arguments])
    return answer.exit_code, answer.stdout


def test_only_what_changed_is_rendered_and_shown(clone: Path) -> None:
    image = clone / "values/dev/proxy.image.yaml"
    values = ("registry.test/slipway/proxy", "1", digest("1"), "a" * 40)
    text = image.read_text()
    for value in values:
        text = text.replace('""', f'"{value}"', 1)
    image.write_text(text)
    commit(clone, "Deploy")
    code, out = run("HEAD^", "HEAD", "--json", "--markdown", str(clone / "comment.md"))
    assert code == 2
    [changed] = json.loads(out)["applications"]
    assert changed["name"] == "dev/proxy"
    kinds = {resource["kind"]: resource["change"] for resource in changed["resources"]}
    assert kinds["Deployment"] == "added"
    assert f"proxy:1@{digest('1')}" in (clone / "comment.md").read_text()


def test_nothing_changed_is_zero(clone: Path) -> None:
    (clone / "values/dev/proxy.yaml").write_text(
        "# only a comment\n" + (clone / "values/dev/proxy.yaml").read_text()
    )
    commit(clone, "Comment")
    assert run("HEAD^", "HEAD")[0] == 0


def test_what_cannot_be_rendered_is_an_error(clone: Path) -> None:
    with (clone / "values/dev/proxy.yaml").open("a") as file:
        file.write("resorces: {}\n")
    commit(clone, "Misspell")
    assert run("HEAD^", "HEAD")[0] == 1
    assert run("HEAD^", "nowhere")[0] == 1


def test_an_environment_nobody_deploys_is_refused(clone: Path) -> None:
    """Found: a misspelt environment had no differences."""
    (clone / "README.md").write_text("x\n")
    commit(clone, "Readme")
    code, out = run("HEAD^", "HEAD", "--env", "stge", "--json")
    assert code == 8
    assert "dev, prod, stage" in json.loads(out)["fix"]
