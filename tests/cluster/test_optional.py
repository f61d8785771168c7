"""Add-ons are their makers' manifests with our images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster import build, images, optional
from cluster.cli import app
from cluster.errors import ClusterError

REFERENCES = {
    image.name: f"127.0.0.1:5000/slipway/{image.name}:key"
    for wanted in images.OPTIONAL.values()
    for image in wanted
}


def test_every_name_has_programs_images_files_and_evidence() -> None:
    names = set(optional.NAMES)
    assert names == set(images.OPTIONAL) == set(optional.EVIDENCE) == set(optional.MODULES)
    for name in names:
        assert optional.MODULES[name] in build.SHARED_FILES
        built = {program.name for program in build.OPTIONAL[name]}
        for image in images.OPTIONAL[name]:
            assert set(image.files) <= built
            assert (images.DOCKERFILES / f"{image.name}.Dockerfile").is_file()


def test_makers_images_are_replaced_and_not_asked_for_again() -> None:
    text = (
        "a: registry.test/kedacore/keda:main\n"
        "b: registry.test/kedacore/keda-metrics-apiserver:main\n"
        "c: --prometheus-config-reloader=registry.test/prometheus-operator/"
        "prometheus-config-reloader:v0.85.0\n"
        "d: registry.test/other/keda:main\n"
        "imagePullPolicy: Always\n"
    )
    assert yaml.safe_load(optional.with_images(text, REFERENCES)) == {
        "a": REFERENCES["keda"],
        "b": REFERENCES["keda-adapter"],
        "c": f"--prometheus-config-reloader={REFERENCES['prometheus-config-reloader']}",
        "d": "registry.test/other/keda:main",
        "imagePullPolicy": "IfNotPresent",
    }


def test_keda_cares_for_no_webhook_that_is_not_there() -> None:
    """It would log an error with every look at its certificates."""
    text = "kind: Deployment\nargs:\n- --leader-elect\n- --enable-cert-rotation=true\n"
    made = optional.keda(text, REFERENCES)
    assert yaml.safe_load(made.manifests)["args"][1:] == [
        "--enable-cert-rotation=true",
        "--enable-webhook-patching=false",
    ]


def test_prometheus_runs_our_image_as_the_version_it_is() -> None:
    made = optional.prometheus(REFERENCES)
    documents = {one["kind"]: one for one in yaml.safe_load_all(made.manifests)}
    spec = documents["Prometheus"]["spec"]
    assert (spec["image"], spec["version"]) == (REFERENCES["prometheus"], build.PROMETHEUS_VERSION)
    # What the charts label, in every namespace.
    for what in ("serviceMonitor", "podMonitor", "rule"):
        assert spec[f"{what}Selector"] == {"matchLabels": {"release": "prometheus"}}
        assert spec[f"{what}NamespaceSelector"] == {}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("kedda", r"no add-on is named 'kedda'"),
        ("keda", r"no cluster to bring add-ons into"),
    ],
)
def test_nothing_is_built_for_nothing(
    name: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KEDA takes minutes to build: what cannot come to an end is told before."""
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
    done = CliRunner().invoke(app, ["addon", name, "--cluster=machine"])
    assert isinstance(done.exception, ClusterError)
    assert re.search(wrong, str(done.exception))
    assert not (tmp_path / "builds").exists()
