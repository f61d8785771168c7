"""values.yaml and the reference pages are what the schemas say."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.charts.rendering import CHARTS, ROOT


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "charts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load("reference")


@pytest.mark.parametrize(
    ("path", "text"), list(reference.files()), ids=lambda value: getattr(value, "name", "text")
)
def test_generated_file_is_current(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, (
        f"{path.relative_to(ROOT)} differs from its schema: run `python charts/reference.py`"
    )


@pytest.mark.parametrize("chart", CHARTS)
def test_schema_is_closed_and_every_key_is_explained(chart: str) -> None:
    schema = reference.load(chart)
    wrong = list(_open_or_unexplained(schema, schema, chart))
    assert wrong == []


def _open_or_unexplained(node: dict[str, Any], root: dict[str, Any], where: str) -> Any:
    node = reference.resolve(node, root)
    if node.get("type") == "object" or "properties" in node:
        if "additionalProperties" not in node:
            yield f"{where} takes any key: set additionalProperties"
        for key, raw in node.get("properties", {}).items():
            child = reference.resolve(raw, root)
            if not child.get("description"):
                yield f"{where}.{key} has no description"
            yield from _open_or_unexplained(child, root, f"{where}.{key}")
        if isinstance(entry := node.get("additionalProperties"), dict):
            yield from _open_or_unexplained(entry, root, f"{where}.<name>")
    if isinstance(item := node.get("items"), dict):
        yield from _open_or_unexplained(item, root, f"{where}[]")


@pytest.mark.parametrize("chart", CHARTS)
def test_no_key_is_a_boolean_to_yaml(chart: str) -> None:
    """``retries: {on: [...]}`` was refused as the key ``true``: Helm reads YAML 1.1."""
    text = (ROOT / "charts" / chart / "values.schema.json").read_text("utf-8")
    assert set(_keys(json.loads(text))).isdisjoint({"on", "off", "yes", "no", "y", "n"})


def _keys(node: Any) -> Iterator[str]:
    """Every key that values may have."""
    if isinstance(node, dict):
        if isinstance(properties := node.get("properties"), dict):
            yield from properties
        for child in node.values():
            yield from _keys(child)


def test_the_platform_is_the_same_to_every_chart() -> None:
    """One file of values/platform is given to every release, so each chart takes all of it."""
    of = {chart: reference.load(chart) for chart in CHARTS}

    def closed(node: Any, chart: str) -> Any:
        if isinstance(node, dict):
            node = reference.resolve(node, of[chart])
            return {key: closed(value, chart) for key, value in node.items()}
        return node

    service = closed(of["service"]["properties"]["platform"], "service")
    for chart in CHARTS:
        assert closed(of[chart]["properties"]["platform"], chart) == service


@pytest.mark.parametrize("chart", CHARTS)
def test_defaults_fit_their_own_schema(chart: str) -> None:
    import jsonschema  # type: ignore[import-untyped]
    import yaml

    text = (ROOT / "charts" / chart / "values.yaml").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "charts" / chart / "values.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(text), schema)
