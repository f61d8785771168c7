"""What is listed is deployed and what is deployed is listed: argocd/ against values/."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import (
    ALL_RELEASES,
    CHARTS,
    ENVIRONMENTS,
    ROOT,
    Release,
    application_set,
    manifests,
    releases,
    render,
)

VALUES = ROOT / "values"
REPOSITORY = "https://github.com/your-organisation/slipway.git"


def _documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "argocd" / name).read_text(encoding="utf-8")))


def test_every_environment_has_values_and_is_deployed() -> None:
    folders = {path.name for path in VALUES.iterdir() if path.is_dir()} - {"base"}
    sets = {
        document["metadata"]["name"]
        for path in (ROOT / "argocd").glob("*.yaml")
        for document in _documents(path.name)
        if document["kind"] == "ApplicationSet"
    }
    assert folders == sets == set(ENVIRONMENTS)
    [root] = _documents("root.yaml")
    included = root["spec"]["source"]["directory"]["include"]
    listed = set(re.fullmatch(r"\{(.*)\}\.yaml", included)[1].split(","))  # type: ignore[index]
    assert folders | {"project"} <= listed


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_value_file_belongs_to_a_release(environment: str) -> None:
    read = {path for release in releases(environment) for path in release.files}
    there = {path for path in (VALUES / environment).glob("**/*") if path.is_file()}
    assert {path for path in read if path.parent.name == environment} == there
    assert {path for path in read if path.parent.name == "base"} == set(VALUES.glob("base/*"))


@pytest.mark.parametrize("release", ALL_RELEASES, ids=str)
def test_a_release_lacks_no_file(release: Release) -> None:
    """Missing value files are ignored by Argo CD, so that a typo in a name would go unseen."""
    may_be_missing = {f"{release.name}.models.yaml"}
    if release.chart != "service":
        may_be_missing.add(f"{release.name}.image.yaml")
    assert {path.name for path in release.missing} <= may_be_missing
    assert (release.chart == "service") == any(
        path.name.endswith(".image.yaml") for path in release.files
    )


def test_every_environment_has_the_same_releases_in_base() -> None:
    names = [{release.name for release in releases(name)} for name in ENVIRONMENTS]
    assert set.intersection(*names) == {path.stem for path in VALUES.glob("base/*.yaml")}


@pytest.mark.parametrize("release", ALL_RELEASES, ids=str)
def test_a_suite_renders_every_shipped_release(release: Release) -> None:
    suite = ROOT / "charts" / release.chart / "tests/shipped-values_test.yaml"
    rendered = [
        tuple(
            (suite.parent / name).resolve()
            for name in case["values"]
            if name.startswith("../../../values/")
        )
        for case in yaml.safe_load(suite.read_text(encoding="utf-8"))["tests"]
    ]
    assert release.files in rendered, f"{suite.relative_to(ROOT)} has no case for {release}"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_git_is_the_switch(environment: str) -> None:
    spec = application_set(environment)["spec"]["template"]["spec"]
    policy = spec["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert {"ServerSideApply=true", "PruneLast=true"} <= set(policy["syncOptions"])
    assert policy["retry"]["refresh"] is True
    assert spec["project"] == "slipway"
    assert spec["source"]["targetRevision"] == "main"
    assert spec["destination"]["namespace"] == environment


@pytest.mark.parametrize("release", ALL_RELEASES, ids=str)
def test_a_commit_wakes_the_releases_that_are_made_of_it(release: Release) -> None:
    """A file that Argo CD does not know of would be applied late, or not at all."""
    template = application_set(release.environment)["spec"]["template"]
    paths = template["metadata"]["annotations"]["argocd.argoproj.io/manifest-generate-paths"]
    chart, *values = paths.replace("{{ .release }}", release.name).split(";")
    assert chart == "."  # the folder of spec.source.path
    for environment in ("base", *ENVIRONMENTS):
        for path in (*release.files, *release.missing, *VALUES.glob(f"{environment}/*")):
            woken = any(fnmatch(f"/{path.relative_to(ROOT)}", pattern) for pattern in values)
            assert woken == (path in (*release.files, *release.missing)), path


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_environment_is_pruned_unasked(environment: str) -> None:
    annotations = application_set(environment)["metadata"]["annotations"]
    assert annotations["argocd.argoproj.io/sync-options"] == "Prune=confirm"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_releases_are_listed_by_name_once(environment: str) -> None:
    names = [release.name for release in releases(environment)]
    assert len(names) == len(set(names))
    assert {release.chart for release in releases(environment)} == set(CHARTS)
    # Guard rails first: they make the namespace.
    assert names[0] == "environment"


def test_one_repository_is_named_everywhere() -> None:
    for path in (ROOT / "argocd").glob("*.yaml"):
        for url in re.findall(r"https://\S+?\.git", path.read_text(encoding="utf-8")):
            assert url == REPOSITORY, f"{path.name} names {url}"


def test_the_project_allows_what_is_rendered_and_no_cluster_wide_kind() -> None:
    project = next(d for d in _documents("project.yaml") if d["metadata"]["name"] == "slipway")
    allowed = {
        (entry["group"], entry["kind"]) for entry in project["spec"]["namespaceResourceWhitelist"]
    }
    cluster_wide = {
        (entry["group"], entry["kind"]) for entry in project["spec"]["clusterResourceWhitelist"]
    }
    assert cluster_wide == {("", "Namespace")}
    for release in ALL_RELEASES:
        for manifest in manifests(render(release)):
            group = manifest["apiVersion"].rpartition("/")[0]
            assert (group, manifest["kind"]) in allowed | cluster_wide, (
                f"{release}: {manifest['kind']}"
            )
    # What charts can render at all; a kind that none of them has must not be allowed.
    texts = "\n".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("charts/*/templates/*.yaml")
    )
    secrets = {"TriggerAuthentication"}
    for group, kind in allowed:
        assert f"kind: {kind}\n" in texts or kind in secrets, f"no chart renders {group} {kind}"


def test_the_project_stays_in_its_namespaces() -> None:
    project = next(d for d in _documents("project.yaml") if d["metadata"]["name"] == "slipway")
    namespaces = {entry["namespace"] for entry in project["spec"]["destinations"]}
    assert namespaces == {*ENVIRONMENTS, "istio-ingress"}


def test_machine_owned_files_say_so() -> None:
    paths = [*VALUES.glob("*/*.image.yaml"), *VALUES.glob("*/*.models.yaml")]
    assert paths
    for path in paths:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == "# Written by `release`; do not edit.", path
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name.endswith(".image.yaml"):
            assert set(document["image"]) == {"repository", "tag", "digest", "revision"}, path
        else:
            assert set(document) == {"models"}, path
            for entry in document["models"].values():
                assert set(entry) == {"version", "uri", "sha256"}, path


def test_every_human_file_is_short() -> None:
    for environment in ENVIRONMENTS:
        for path in (VALUES / environment).glob("*.yaml"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 30, (
                f"{path.relative_to(ROOT)}: what is the same everywhere goes to base"
            )
    assert Path(VALUES / "base").is_dir()
