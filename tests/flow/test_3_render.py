"""Stage 3: charts and values become manifests; what is misspelt is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flow.errors import FlowError
from flow.render import render
from release.render.helm import releases
from tests.flow.conftest import SOURCE
from tests.programs import require

ENVIRONMENTS = ("dev", "stage", "prod")


@pytest.fixture(autouse=True)
def _helm() -> None:
    require("helm")


def copy(tmp_path: Path, deployed: Path) -> Path:
    return Path(shutil.copytree(deployed, tmp_path / "clone"))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_release_runs_the_digest_that_was_set(deployed: Path, environment: str) -> None:
    rendered = render(deployed, environment)
    for name in ("proxy", "worker", "inference", "unzip"):
        pods = [
            document["spec"]["jobTemplate"]["spec"]["template"]
            if document["kind"] == "CronJob"
            else document["spec"]["template"]
            for document in rendered[name]
            if document["kind"] in ("Deployment", "CronJob")
        ]
        assert len(pods) == 1, name
        image = pods[0]["spec"]["containers"][0]["image"]
        assert "@sha256:" in image
        assert image.partition("/slipway/")[2].startswith("proxy" if name == "worker" else name)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_before_the_first_deployment_there_are_no_pods(environment: str) -> None:
    source = SOURCE
    rendered = render(source, environment)
    kinds = {document["kind"] for documents in rendered.values() for document in documents}
    assert kinds.isdisjoint({"Deployment", "CronJob", "Job", "StatefulSet"})
    assert {"NetworkPolicy", "VirtualService", "PeerAuthentication"} <= kinds


def test_rendering_twice_gives_the_same(deployed: Path) -> None:
    assert render(deployed, "prod") == render(deployed, "prod")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proxy", "replcas: 2\n"),
        ("routing", "hots: [dev.slipway.localhost]\n"),
        ("environment", "qouta: {}\n"),
    ],
)
def test_a_misspelt_value_is_refused_by_its_key(
    tmp_path: Path, deployed: Path, name: str, text: str
) -> None:
    clone = copy(tmp_path, deployed)
    with (clone / "values" / "dev" / f"{name}.yaml").open("a") as file:
        file.write(text)
    with pytest.raises(FlowError, match=text.partition(":")[0]):
        render(clone, "dev")


def test_an_image_without_a_digest_is_refused(tmp_path: Path, deployed: Path) -> None:
    clone = copy(tmp_path, deployed)
    path = clone / "values" / "dev" / "proxy.image.yaml"
    lines = [
        '  digest: ""' if line.strip().startswith("digest:") else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FlowError, match="digest"):
        render(clone, "dev")


def test_every_environment_lists_the_same_releases() -> None:
    names = {
        environment: {release.name for release in releases(SOURCE, environment)}
        for environment in ENVIRONMENTS
    }
    required = {"environment", "routing", "proxy", "worker", "inference", "unzip"}
    assert all(required <= found for found in names.values())
