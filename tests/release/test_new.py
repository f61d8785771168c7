"""`release new`: what it writes is whole, and nothing else has to be touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from release import layout, render, validate
from release.cli import app
from release.create import rows
from release.create.environment import NewEnvironment
from release.create.environment import planned as planned_environment
from release.create.service import NewService, planned, write
from release.errors import BadReferenceError, BadValuesError
from tests.documented import block
from tests.programs import require

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("charts", "values", "argocd", "docs/reference", "cluster/manifests", ".github"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "apps").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["ranker", "fraud-scorer"])
def test_a_new_service_is_valid_and_reachable_at_once(root: Path, name: str) -> None:
    """Found: a name with a dash was cut at it, and could not be deployed the first time."""
    for program in ("helm", "kubeconform"):
        require(program)
    write(root, planned(root, NewService(name)))
    assert [str(one) for one in validate.validate(root).findings] == []
    for environment in render.environments(root):
        [own] = [one for one in render.releases(root, environment) if one.name == name]
        assert own.service == name
        [public] = render.render_all(
            root, [one for one in render.releases(root, environment) if one.chart == "routing"]
        )
        routes = next(
            one
            for one in public.manifests
            if one["kind"] == "VirtualService" and "public" in one["spec"]["gateways"]
        )
        matches = [rule["match"] for rule in routes["spec"]["http"] if "match" in rule]
        assert any(f"/{name}" in str(match) for match in matches), matches


@pytest.mark.parametrize("name", ["fraud-scorer", "ranker"])
def test_a_new_service_s_own_tests_and_checks_pass(root: Path, name: str) -> None:
    """Its package is clean under this repository's rules, and its tests pass."""
    module = name.replace("-", "_")
    write(root, planned(root, NewService(name, "/v1/score")))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "apps/kit").symlink_to(ROOT / "apps/kit")
    (root / "tests/__init__.py").touch()
    package, tests = root / f"apps/{name}/src", root / f"tests/{module}"
    paths = os.pathsep.join([str(package), str(ROOT / "apps/kit/src")])
    environment = {**os.environ, "PYTHONPATH": paths, "MYPYPATH": paths}
    for command in (
        ["ruff", "check", package, tests],
        ["ruff", "format", "--check", package, tests],
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--explicit-package-bases",
         package / module],
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        [sys.executable, "-c", f"from {module}.cli import main; main()", "settings"],
    ):  # fmt: skip
        done = subprocess.run(
            [*map(str, command)], cwd=root, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_service_may_live_in_one_environment_alone(root: Path) -> None:
    files = planned(root, NewService("ranker", environments=("dev",)))
    assert [path for path in files if path.startswith("argocd/")] == [
        layout.environment_file("dev")
    ]
    assert "values/dev/ranker.image.yaml" in files
    assert "values/prod/ranker.image.yaml" not in files


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("Ranker", "", "no name of a service"),
        ("ranker-", "", "no name of a service"),
        ("a" * 41, "", "no name of a service"),
        ("ranker", "rank", "no prefix of a URL"),
        ("ranker", "/", "no prefix of a URL"),
        ("json", "", "a module of Python's"),
        ("services", "", "a meaning of its own"),
        ("gateway", "", "a meaning of its own"),
    ],
)
def test_a_name_that_cannot_be_is_refused(root: Path, name: str, path: str, words: str) -> None:
    with pytest.raises(BadReferenceError, match=words):
        planned(root, NewService(name, path))


def test_what_is_there_is_never_written_over(root: Path) -> None:
    options = ["--root", str(root), "--json"]
    (root / "uv.lock").write_text("")
    first = CliRunner().invoke(app, ["new", "service", "ranker", *options, "--dry-run"])
    assert first.exit_code == 0, first.output
    assert not (root / "apps/ranker").exists()
    write(root, planned(root, NewService("ranker")))
    for name in ("ranker", "proxy"):
        answer = CliRunner().invoke(app, ["new", "service", name, *options])
        assert answer.exit_code != 0
        assert "already" in json.loads(answer.stdout)["message"]


def test_rows_keep_every_other_byte() -> None:
    text = (ROOT / layout.environment_file("dev")).read_text()
    longer = rows.with_routes(rows.with_row(text, "dev", "ranker"), "dev", "ranker")
    assert set(text.splitlines()) < set(longer.splitlines())
    assert len(longer.splitlines()) == len(text.splitlines()) + 2
    assert rows.with_row(longer, "dev", "ranker") == longer
    assert rows.with_routes(longer, "dev", "ranker") == longer
    assert rows.without_row(longer, "ranker") == text
    shared = rows.with_row(text, "dev", "iris", of="inference")
    assert "{release: iris, chart: service, of: inference}\n" in shared
    with pytest.raises(BadValuesError, match="by hand"):
        rows.with_row("spec: {}\n", "dev", "iris")


@pytest.mark.parametrize("like", ["", "prod"])
def test_a_new_environment_is_valid_and_shares_no_store(root: Path, like: str) -> None:
    for program in ("helm", "kubeconform"):
        require(program)
    write(root, planned_environment(root, NewEnvironment("qa", "dev", like)))
    assert [str(one) for one in validate.validate(root).findings] == []
    stores: dict[str, set[str]] = {}
    for environment in render.environments(root):
        for path in (root / "values" / environment).glob("*.yaml"):
            text = path.read_text()
            found = {*_words(text, "redis://"), *_words(text, "BUCKET"), *_words(text, "bucket")}
            found |= set(yaml.safe_load(text).get("hosts", ()))
            stores.setdefault(environment, set()).update(found)
    for name, own in stores.items():
        assert name == "qa" or not own & stores["qa"], (name, own & stores["qa"])
    assert any("qa.slipway.localhost" in one for one in stores["qa"])
    document = yaml.safe_load((root / layout.environment_file("qa")).read_text())
    assert document["metadata"]["name"] == "qa"
    assert document["spec"]["template"]["spec"]["project"] == "slipway-qa"


def _words(text: str, marker: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if marker in line]


def test_the_workflows_offer_the_new_environment_after_the_one_before(root: Path) -> None:
    write(root, planned_environment(root, NewEnvironment("qa", "dev")))
    promote = (root / ".github/workflows/promote.yaml").read_text()
    assert "options: [dev, qa, stage]" in promote
    assert "options: [qa, stage, prod]" in promote
    assert (
        "options: [dev, qa, stage, prod]" in (root / ".github/workflows/rollback.yaml").read_text()
    )


@pytest.mark.parametrize("name", ["QA", "q_a", "-qa", "services", "root", "x" * 31])
def test_an_environment_s_name_is_a_namespace(root: Path, name: str) -> None:
    with pytest.raises(BadReferenceError):
        planned_environment(root, NewEnvironment(name, "dev"))


def test_the_commands_of_the_page_work_as_written(root: Path) -> None:
    for program in ("helm", "kubeconform"):
        require(program)
    shutil.copy(ROOT / "pyproject.toml", root)
    for text in ("release new service", "release new environment"):
        written = block("docs/adding.md", containing=text).text
        done = subprocess.run(
            ["bash", "-euc", written], cwd=root, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Next:" in done.stdout
    assert (root / "apps/fraud-scorer/src/fraud_scorer/app.py").is_file()
    assert [str(one) for one in validate.validate(root).findings] == []
    assert "fraud-scorer" in (root / layout.environment_file("qa")).read_text()
