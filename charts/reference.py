"""Each chart's values.yaml and its page in docs/reference, written from its values.schema.json.

The schema is the one place where a key, its type, its default and its meaning stand.
``python charts/reference.py`` writes the files; a test fails where they differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
CHARTS = ("environment", "routing", "service")
ROOT = Path(__file__).resolve().parent.parent


def load(chart: str) -> Schema:
    """The schema of a chart."""
    path = ROOT / "charts" / chart / "values.schema.json"
    schema: Schema = json.loads(path.read_text(encoding="utf-8"))
    return schema


def resolve(node: Schema, root: Schema) -> Schema:
    """The node with its ``$ref`` replaced by what it names; keys beside the ``$ref`` win."""
    if "$ref" not in node:
        return node
    target: Schema = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return resolve({**target, **{key: value for key, value in node.items() if key != "$ref"}}, root)


def values(node: Schema, root: Schema, indent: int = 0) -> Iterator[str]:
    """Lines of values.yaml: every key that has a default, its meaning above it."""
    for key, raw in node.get("properties", {}).items():
        child = resolve(raw, root)
        pad = "  " * indent
        if "default" in child:
            yield f"{pad}# {child['description']}"
            yield f"{pad}{key}: {json.dumps(child['default'], ensure_ascii=False)}"
        elif below := list(values(child, root, indent + 1)):
            yield f"{pad}# {child['description']}"
            yield f"{pad}{key}:"
            yield from below


def rows(node: Schema, root: Schema, path: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and meaning of every key, maps' entries as ``<name>``."""
    for key, raw in node.get("properties", {}).items():
        child = resolve(raw, root)
        here = f"{path}.{key}" if path else key
        default = json.dumps(child["default"], ensure_ascii=False) if "default" in child else ""
        yield here, type_name(child, root), default, child.get("description", "")
        yield from rows(child, root, here)
        entry = child.get("additionalProperties")
        if isinstance(entry, dict) and "properties" in (entry := resolve(entry, root)):
            yield from rows(entry, root, f"{here}.<name>")
        item = child.get("items")
        if isinstance(item, dict) and "properties" in (item := resolve(item, root)):
            yield from rows(item, root, f"{here}[]")


def type_name(node: Schema, root: Schema) -> str:
    """The type as a reader wants it: ``map of string``, ``one of a, b``."""
    if "enum" in node:
        return "one of " + ", ".join(str(value) for value in node["enum"])
    if "oneOf" in node or "anyOf" in node:
        options = node.get("oneOf") or node["anyOf"]
        return " or ".join(type_name(resolve(option, root), root) for option in options)
    kind = node.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(str(one) for one in kind)
    if kind == "array":
        return "list of " + type_name(resolve(node.get("items", {}), root), root)
    entry = node.get("additionalProperties")
    if kind == "object" and isinstance(entry, dict):
        return "map of " + type_name(resolve(entry, root), root)
    return str(kind)


def values_file(chart: str) -> str:
    """The text of the chart's values.yaml."""
    schema = load(chart)
    head = "# Written by `make reference` from values.schema.json; do not edit."
    return "\n".join([head, *values(schema, schema)]) + "\n"


def page(chart: str) -> str:
    """The text of the chart's page in docs/reference."""
    schema = load(chart)
    lines = [
        f"# Values of charts/{chart}",
        "",
        f"{schema['description']} Written by `make reference` from its schema; do not edit.",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for path, kind, default, meaning in rows(schema, schema):
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{path}` | {kind} | {shown} | {meaning} |".replace("\\", "\\\\"))
    return "\n".join(lines) + "\n"


def files() -> Iterator[tuple[Path, str]]:
    """Every generated file and the text it should have."""
    for chart in CHARTS:
        yield ROOT / "charts" / chart / "values.yaml", values_file(chart)
        yield ROOT / "docs" / "reference" / f"chart-{chart}.md", page(chart)


def main() -> int:
    """Write the files; say which changed."""
    for path, text in files():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
