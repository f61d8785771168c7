"""kubeconform, strict, with the closed schemas of charts/schemas: no key the API does not know."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pytest

from release.render.helm import releases, render_all
from release.values import layout
from tests import programs
from tests.charts.rendering import ALL_RELEASES, CHARTS, ROOT, Release, helm, render

LOCATION = str(ROOT / "charts/schemas/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json")
CHARTS_SCHEMAS = ROOT / "charts/schemas.py"
OF_ARGOCD = [
    path
    for path in sorted((ROOT / "argocd").rglob("*.yaml"))
    if "platform" not in path.parts
    if "apiVersion: argoproj.io/" in path.read_text(encoding="utf-8")
]
VALID = sorted((ROOT / "tests/fixtures/valid").glob("*.yaml"))


def kubeconform(text: str) -> subprocess.CompletedProcess[str]:
    """Check manifests; exit code and findings."""
    command = [programs.require("kubeconform"), "-strict", "-schema-location", LOCATION, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("release", ALL_RELEASES, ids=str)
def test_shipped_values_render_valid_manifests(release: Release) -> None:
    answer = kubeconform(render(release))
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("path", OF_ARGOCD, ids=lambda path: path.name)
def test_argocd_objects_are_valid(path: Path) -> None:
    answer = kubeconform(path.read_text(encoding="utf-8"))
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_fixture_renders_valid_manifests(path: Path) -> None:
    answer = _render_fixture(path)
    assert answer.returncode == 0, answer.stderr
    checked = kubeconform(answer.stdout)
    assert checked.returncode == 0, checked.stdout


def test_fixtures_render_every_template() -> None:
    rendered = defaultdict(set)
    for path in VALID:
        for line in _render_fixture(path).stdout.splitlines():
            if line.startswith("# Source: "):
                chart, _, template = line.removeprefix("# Source: ").partition("/templates/")
                rendered[chart].add(template)
    for chart in CHARTS:
        templates = {path.name for path in (ROOT / "charts" / chart / "templates").glob("*.yaml")}
        assert templates - rendered[chart] == set(), (
            f"no valid fixture makes charts/{chart} render these"
        )


def test_a_misspelt_field_is_refused() -> None:
    text = render(ALL_RELEASES[0]).replace("podSelector", "podSelectr")
    answer = kubeconform(text)
    assert answer.returncode != 0
    assert "podSelectr" in answer.stdout


def test_a_misspelt_field_below_a_shared_schema_is_refused() -> None:
    generators = "generators: [{matrix: {generators: [{clusters: {selectr: {}}}]}}]"
    template = "template: {metadata: {}, spec: {destination: {}, project: default}}"
    answer = kubeconform(
        "apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\nmetadata: {name: dev}\n"
        f"spec: {{{generators}, {template}}}\n"
    )
    assert answer.returncode != 0
    assert "'/spec/generators/0/matrix/generators/0/clusters'" in answer.stdout
    assert "selectr" in answer.stdout


def test_what_is_shared_says_the_same_and_stands_once() -> None:
    schemas = runpy.run_path(str(CHARTS_SCHEMAS))
    port = {"type": "object", "properties": {"port": {"type": "integer", "pattern": "x" * 200}}}
    rule = {"anyOf": [{"required": ["port"]}], "items": port, "type": "array"}
    schema = {
        "properties": {"a": rule, "b": {"not": rule}, "c": port, "d": {"type": "string"}},
        "definitions": {"known": {"additionalProperties": port}},
    }
    made = schemas["shared"](schema)
    text = json.dumps(made)
    assert text.count("x" * 200) == 1
    assert text.count('"anyOf"') == 1

    def expanded(node: dict[str, Any]) -> dict[str, Any]:
        name = node.get("$ref", "").removeprefix("#/definitions/")
        if name:
            return expanded(made["definitions"][name])
        return cast("dict[str, Any]", schemas["mapped"](node, expanded))

    known = {"known": made["definitions"]["known"]}
    assert expanded({**made, "definitions": known}) == schema


def test_every_schema_is_written_as_the_generator_writes_it() -> None:
    shared = runpy.run_path(str(CHARTS_SCHEMAS))["shared"]
    for path in sorted((ROOT / "charts/schemas").rglob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        assert shared(schema) == schema, f"{path.name}: run `make schemas`"


def _render_fixture(path: Path) -> subprocess.CompletedProcess[str]:
    header = path.read_text(encoding="utf-8").splitlines()[0]
    chart, release = header.removeprefix("# chart: ").split(", release: ")
    return helm(ROOT / "charts" / chart, release, "dev", [path])


@pytest.mark.parametrize(
    "name", ["environment", "routing", "proxy", "worker", "inference", "unzip"]
)
def test_the_platform_layer_of_aws_renders(name: str, tmp_path: Path) -> None:
    """Nothing of the one machine is left, and what is rendered is valid."""
    for part in ("argocd", "values", "charts"):
        shutil.copytree(ROOT / part, tmp_path / part)
    file = tmp_path / layout.environment_file("dev")
    file.write_text(file.read_text().replace("one-machine.yaml", "aws.yaml"))
    [release] = [one for one in releases(tmp_path, "dev") if one.name == name]
    assert "values/platform/aws.yaml" in release.files
    [rendered] = render_all(tmp_path, [release], placeholders=True)
    assert rendered.error == ""
    assert kubeconform(rendered.text).stdout == ""
    assert "s3-credentials" not in rendered.text
    assert "7070" not in rendered.text
