"""The one reader of ApplicationSets refuses by name what it does not understand."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from release import validate
from release.errors import BadValuesError
from release.render import helm
from release.validate.files import listing
from release.values import layout

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ("spec", "template", "spec", "source")
FILES = (*SOURCE, "helm", "valueFiles")
ROWS = ("spec", "generators", 0, "list", "elements")


@pytest.fixture
def document() -> Any:
    text = (ROOT / layout.environment_file("dev")).read_text()
    return copy.deepcopy(yaml.safe_load(text))


def at(document: Any, *path: str | int) -> Any:
    for part in path:
        document = document[part]
    return document


@pytest.mark.parametrize(
    "path",
    [
        '../../values/dev/{{ if eq .release "proxy" }}proxy{{ else }}other{{ end }}.yaml',
        '../../values/dev/{{ default "none" .release }}.yaml',
        "../../values/dev/{{ .release | upper }}.yaml",
        "../../values/dev/{{ .absent }}.yaml",
        "../../values/dev/{{release}}.yaml",
        "../../../elsewhere/proxy.yaml",
        "../../..",
        "https://example.org/values.yaml",
        "s3://bucket/values.yaml",
        "$values/dev/proxy.yaml",
        "../../values/*/service.yaml",
        "../../values/{dev,stage}/proxy.yaml",
    ],
)
def test_a_value_file_that_is_not_understood_is_refused(document: Any, path: str) -> None:
    """Found: it counted as a file that is not there, and was passed over."""
    at(document, *FILES).append(path)
    with pytest.raises(BadValuesError, match="valueFiles"):
        layout.rows(document, "dev")
    assert layout.entries(document, "dev")


def test_a_value_file_may_be_named_from_the_top_of_the_tree(document: Any) -> None:
    """As Argo CD reads it; found: it was looked for below the chart's folder."""
    at(document, *FILES).append("/values/dev/proxy.yaml")
    before = layout.rows(document, "dev")
    assert all("values/dev/proxy.yaml" in row.files for row in before)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        (("spec",), "templatePatch", "spec: {}"),
        (("spec",), "goTemplate", False),
        (("spec", "generators", 0), "selector", {"matchLabels": {"release": "proxy"}}),
        (("spec", "generators", 0, "list"), "elementsYaml", "- {release: other}"),
        (("spec", "generators", 0, "list"), "template", {}),
        (("spec", "template", "spec"), "sources", []),
        (SOURCE, "chart", "service"),
        (SOURCE, "kustomize", {}),
        (SOURCE, "path", "charts/{{ if .chart }}{{ end }}"),
        ((*SOURCE, "helm"), "valuesObject", {"replicas": 3}),
        ((*SOURCE, "helm"), "values", "replicas: 3"),
        ((*SOURCE, "helm"), "parameters", [{"name": "replicas", "value": "3"}]),
        ((*SOURCE, "helm"), "fileParameters", []),
        ((*SOURCE, "helm"), "releaseName", "dev-{{ .release }}"),
        (("spec", "template", "spec", "destination"), "namespace", "{{ lower .release }}"),
    ],
)
def test_what_would_be_deployed_otherwise_than_read_is_refused(
    document: Any, where: tuple[str | int, ...], key: str, value: object
) -> None:
    at(document, *where)[key] = value
    with pytest.raises(BadValuesError, match=key if where[-1] != 0 else "selector"):
        layout.rows(document, "dev")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"release": "ranker"}, "chart is missing"),
        ({"chart": "service"}, "release is missing"),
        ({"release": 1, "chart": "service"}, "release is 1, which is no name"),
        ({"release": False, "chart": "service"}, "release is False, which is no name"),
        ({"release": "ranker", "chart": "../../x"}, "chart is '../../x', which is no name"),
        ({"release": "a/../b", "chart": "service"}, "release is 'a/../b', which is no name"),
        ({"release": "ranker", "chart": "service", "of": ""}, "of is '', which is no name"),
        ({"release": "ranker", "chart": "service", "of": None}, "of is None, which is no name"),
        ("ranker", "the row 'ranker' is no map"),
    ],
)
def test_a_row_that_names_no_release_is_refused(document: Any, row: object, said: str) -> None:
    at(document, *ROWS).append(row)
    for read in (layout.rows, layout.entries):
        with pytest.raises(BadValuesError) as refused:
            read(document, "dev")
        assert said in refused.value.message


def test_validate_says_once_what_is_not_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: each file of the environment was a finding besides, of an unknown release."""
    monkeypatch.setattr(helm, "render_all", lambda *_args, **_options: [])
    for part in ("charts", "values", "argocd", "docs/reference", "cluster/manifests"):
        shutil.copytree(ROOT / part, tmp_path / part)
    file = tmp_path / layout.environment_file("dev")
    text = file.read_text()
    for old, new, words in (
        (
            "  goTemplate: true",
            "  goTemplate: true\n  templatePatch: x",
            "spec.templatePatch is not",
        ),
        ("path: charts/{{ .chart }}", "path: charts/{{ .chrat }}", "names the field .chrat"),
    ):
        file.write_text(text.replace(old, new))
        [one] = validate.validate(tmp_path, ["dev"]).findings
        assert words in str(one)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("copy", "inferense")], "did you mean of: inference?"),
        ([("copy", "worker")], "copy: is of worker, which is itself of proxy"),
        ([("one", "two"), ("two", "one")], "one: is of two, which is itself of one"),
    ],
)
def test_of_names_a_service_that_is_there_and_is_its_own(
    tmp_path: Path, document: Any, rows: list[tuple[str, str]], said: str
) -> None:
    for name, of in rows:
        at(document, *ROWS).append({"release": name, "chart": "service", "of": of})
    for folder in ("values/services", "values/dev"):
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(ROOT / folder)
    file = tmp_path / layout.environment_file("dev")
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(document))
    listed = helm.releases(tmp_path, "dev")
    found = [f"{one} {one.fix}" for one in listing.of_environment(tmp_path, "dev", listed)]
    assert any(said in one for one in found), found
