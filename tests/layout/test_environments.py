"""What is listed is deployed and what is deployed is listed: argocd/ against values/."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from release.validate.files.applications import of_namespace
from release.values import layout, tree
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


def _project(environment: str) -> dict[str, Any]:
    documents = _documents(f"projects/{environment}.yaml")
    return next(one for one in documents if one["kind"] == "AppProject")


def test_every_environment_has_values_and_is_deployed() -> None:
    folders = {path.name for path in VALUES.iterdir() if path.is_dir()} - layout.NO_ENVIRONMENTS
    sets = {
        document["metadata"]["name"]
        for path in (ROOT / layout.ENVIRONMENTS).glob("*.yaml")
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    }
    projects = {path.stem for path in (ROOT / layout.PROJECTS).glob("*.yaml")} - {"root"}
    assert folders == sets == projects == set(ENVIRONMENTS)
    [root] = _documents("root.yaml")
    directory = root["spec"]["source"]["directory"]
    assert directory == {"recurse": True, "exclude": "{platform/*,root.yaml}"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_value_file_belongs_to_a_release(environment: str) -> None:
    read = {ROOT / path for release in releases(environment) for path in release.files}
    there = {path for path in (VALUES / environment).glob("**/*") if path.is_file()}
    assert {path for path in read if path.parent.name == environment} == there


def test_every_shared_file_belongs_to_a_release() -> None:
    """A platform's layer may be one that no environment has yet."""
    read = {ROOT / path for release in ALL_RELEASES for path in release.files}
    assert set(VALUES.glob("services/*/*")) <= read


@pytest.mark.parametrize("release", ALL_RELEASES, ids=str)
def test_a_release_lacks_no_file(release: Release) -> None:
    """Missing value files are ignored by Argo CD, so that a typo in a name would go unseen."""
    if release.chart == "service":
        assert layout.service_file(release.service) in release.files
        assert tree.image_file(release.environment, release.name) in release.files
    else:
        assert layout.values_file(release.environment, release.name) in release.files


@pytest.mark.parametrize("release", ALL_RELEASES, ids=str)
def test_every_listed_release_renders(release: Release) -> None:
    """Whatever services and environments a team adds; the suites beside the charts are of ours."""
    assert list(manifests(render(release))), release


@pytest.mark.parametrize("chart", CHARTS)
def test_the_suites_render_releases_as_they_are_listed(chart: str) -> None:
    """A team's own services may stand between the files of a case, and have no case."""
    suite = ROOT / "charts" / chart / "tests/shipped-values_test.yaml"
    listed = [release.files for release in ALL_RELEASES if release.chart == chart]
    for case in yaml.safe_load(suite.read_text(encoding="utf-8"))["tests"]:
        named = [
            str((suite.parent / name).resolve().relative_to(ROOT))
            for name in case["values"]
            if name.startswith("../../../values/")
        ]
        in_order = (iter(files) for files in listed)
        assert any(all(name in rest for name in named) for rest in in_order), case["it"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_git_is_the_switch(environment: str) -> None:
    spec = application_set(environment)["spec"]["template"]["spec"]
    policy = spec["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert {"ServerSideApply=true", "PruneLast=true"} <= set(policy["syncOptions"])
    assert policy["retry"]["refresh"] is True
    assert spec["project"] == f"slipway-{environment}"
    assert spec["source"]["targetRevision"] == "main"
    assert spec["destination"]["namespace"] == environment


@pytest.mark.parametrize("release", ALL_RELEASES, ids=str)
def test_a_commit_wakes_the_releases_that_are_made_of_it(release: Release) -> None:
    """A file that Argo CD does not know of would be applied late, or not at all."""
    template = application_set(release.environment)["spec"]["template"]
    rows = application_set(release.environment)["spec"]["generators"][0]["list"]["elements"]
    row = next(one for one in rows if one["release"] == release.name)
    paths = template["metadata"]["annotations"]["argocd.argoproj.io/manifest-generate-paths"]
    chart, *values = layout.filled(paths, row).split(";")
    assert chart == "."  # the folder of spec.source.path
    own = {path for path in (*release.files, *release.missing) if "/none." not in path}
    every = {str(path.relative_to(ROOT)) for path in VALUES.rglob("*.yaml")}
    for path in every | own:
        woken = any(fnmatch(f"/{path}", pattern) for pattern in values)
        assert woken == (path in own), path


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
    for path in (ROOT / "argocd").rglob("*.yaml"):
        for url in re.findall(r"https://github\S+?\.git", path.read_text(encoding="utf-8")):
            assert url == REPOSITORY, f"{path.name} names {url}"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_project_allows_what_is_rendered_and_no_cluster_wide_kind(environment: str) -> None:
    spec = _project(environment)["spec"]
    allowed = {(entry["group"], entry["kind"]) for entry in spec["namespaceResourceWhitelist"]}
    assert spec["clusterResourceWhitelist"] == []
    for release in releases(environment):
        for manifest in manifests(render(release)):
            group = manifest["apiVersion"].rpartition("/")[0]
            assert (group, manifest["kind"]) in allowed, f"{release}: {manifest['kind']}"
    # What charts can render at all; a kind that none of them has must not be allowed.
    texts = "\n".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("charts/*/templates/*.yaml")
    )
    secrets = {"TriggerAuthentication"}
    for group, kind in allowed:
        assert f"kind: {kind}\n" in texts or kind in secrets, f"no chart renders {group} {kind}"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_project_stays_in_its_namespace(environment: str) -> None:
    destinations = _project(environment)["spec"]["destinations"]
    assert {entry["namespace"] for entry in destinations} == {environment}
    assert list(of_namespace(ROOT, environment)) == []
    [made] = [
        one for one in _documents(f"projects/{environment}.yaml") if one["kind"] == "Namespace"
    ]
    assert made["metadata"]["name"] == environment
    options = made["metadata"]["annotations"]["argocd.argoproj.io/sync-options"]
    assert options == "Prune=false,Delete=false"


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
                f"{path.relative_to(ROOT)}: what is the same everywhere goes to services/"
            )
