"""Stage 4: what Argo CD is told to apply, it is allowed to."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flow import source
from flow.errors import FlowError
from flow.render import render
from release.render.helm import releases
from release.values import layout
from tests.flow.conftest import SOURCE, copy_source, git
from tests.programs import require

LOCAL = "git://198.18.0.1:9418/slipway.git"


@pytest.mark.parametrize("environment", ["dev", "stage", "prod"])
def test_the_project_allows_every_kind_that_is_rendered(deployed: Path, environment: str) -> None:
    require("helm")
    project = next(
        document
        for document in yaml.safe_load_all(
            (deployed / f"argocd/projects/{environment}.yaml").read_text()
        )
        if document["kind"] == "AppProject"
    )
    allowed = {
        (entry["group"], entry["kind"])
        for key in ("clusterResourceWhitelist", "namespaceResourceWhitelist")
        for entry in project["spec"][key]
    }
    destinations = {entry["namespace"] for entry in project["spec"]["destinations"]}
    for documents in render(deployed, environment).values():
        for document in documents:
            group = document["apiVersion"].rpartition("/")[0]
            assert (group, document["kind"]) in allowed
            assert document["metadata"].get("namespace", environment) in destinations


def test_every_value_file_argo_cd_names_is_there() -> None:
    for environment in ("dev", "stage", "prod"):
        for row in releases(SOURCE, environment):
            assert (SOURCE / row.folder / "Chart.yaml").is_file()
            assert layout.values_file(environment, row.name) in row.files


def test_publishing_points_argo_cd_at_the_local_repo_and_keeps_what_was_released(
    tmp_path: Path,
) -> None:
    clone = copy_source(tmp_path / "source")
    bare = tmp_path / "bare.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    first = source.publish(clone, str(bare), LOCAL)
    assert LOCAL in git(bare, "show", "main:argocd/root.yaml")
    assert source.PLACEHOLDER_URL not in git(bare, "show", "main:argocd/environments/dev.yaml")
    assert source.publish(clone, str(bare), LOCAL) == first, "nothing new is no commit"

    # A release is committed there, and the source goes on, even on a line beside the address.
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(bare), str(other))
    (other / "values/dev/proxy.image.yaml").write_text("image: {tag: released}\n")
    git(other, "commit", "--quiet", "--all", "--message=release")
    git(other, "push", "--quiet", "origin", "main")
    root = clone / "argocd/root.yaml"
    root.write_text(root.read_text().replace("targetRevision: main", "targetRevision: main # x"))
    git(clone, "commit", "--quiet", "--all", "--message=source goes on")
    source.publish(clone, str(bare), LOCAL)
    assert git(bare, "show", "main:values/dev/proxy.image.yaml") == "image: {tag: released}"
    merged = git(bare, "show", "main:argocd/root.yaml")
    assert LOCAL in merged
    assert "main # x" in merged
    assert git(clone, "rev-parse", "HEAD") in git(bare, "log", "--format=%H", "main")


def test_a_commit_that_was_amended_after_it_was_deployed_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found: `make up` failed until somebody merged by hand what only the source may change."""
    clone = copy_source(tmp_path / "source")
    bare = tmp_path / "bare.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    base = git(clone, "rev-parse", "HEAD")
    (clone / "new.txt").write_text("first\n")
    there = (clone / "charts/reference.py").read_text()
    (clone / "charts/reference.py").write_text(f"first\n{there}")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=change")
    source.publish(clone, str(bare), LOCAL)
    git(clone, "reset", "--quiet", "--hard", base)
    (clone / "new.txt").write_text("second\n")
    git(clone, "rm", "--quiet", "charts/reference.py")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=change, amended")
    source.publish(clone, str(bare), LOCAL)
    assert git(bare, "show", "main:new.txt").strip() == "second"
    assert "charts/reference.py" not in git(bare, "ls-tree", "-r", "--name-only", "main").split()
    assert "2 files are used as the source has them" in capsys.readouterr().err


def test_a_conflict_is_told_with_the_way_out(tmp_path: Path) -> None:
    clone = copy_source(tmp_path / "source")
    bare = tmp_path / "bare.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    source.publish(clone, str(bare), LOCAL)
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(bare), str(other))
    for repo, text in ((other, "replicas: 7\n"), (clone, "replicas: 8\n")):
        (repo / "values/dev/inference.yaml").write_text(text)
        git(repo, "commit", "--quiet", "--all", "--message=change")
    git(other, "push", "--quiet", "origin", "main")
    before = git(bare, "rev-parse", "main")
    with pytest.raises(FlowError, match="git pull"):
        source.publish(clone, str(bare), LOCAL)
    assert git(bare, "rev-parse", "main") == before


def test_a_model_that_runs_stays_when_the_source_gets_maps_of_models(tmp_path: Path) -> None:
    """Otherwise `make up` of a newer source ends in a conflict, or empties what runs."""
    clone = copy_source(tmp_path / "source")
    bare = tmp_path / "bare.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    map_of_models, former = (clone / f"values/dev/inference.model{end}.yaml" for end in ("s", ""))
    map_of_models.unlink()
    text = 'model:\n  name: "{}"\n  version: "{}"\n  uri: "{}"\n  sha256: "{}"\n'
    former.write_text(text.format("", "", "", ""))
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=before the map")
    source.publish(clone, str(bare), LOCAL)
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(bare), str(other))
    there = other / former.relative_to(clone)
    there.write_text(text.format("digits", "3", "s3://models/digits/3", "a" * 64))
    git(other, "commit", "--quiet", "--all", "--message=release")
    git(other, "push", "--quiet", "origin", "main")
    git(clone, "rm", "--quiet", str(former.relative_to(clone)))
    map_of_models.write_text("# Written by `release`; do not edit.\nmodels: {}\n")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=the map")
    source.publish(clone, str(bare), LOCAL)
    merged = yaml.safe_load(git(bare, "show", "main:values/dev/inference.models.yaml"))
    assert merged == {
        "models": {"digits": {"version": "3", "uri": "s3://models/digits/3", "sha256": "a" * 64}}
    }
    files = git(bare, "ls-tree", "-r", "--name-only", "main").split()
    assert "values/dev/inference.model.yaml" not in files
