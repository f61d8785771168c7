"""Which file and line sets a value: what Helm's complaint is about, in the files people edit."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from release import yaml_loader

_SCHEMA_LINE = re.compile(r"^- at '(?P<pointer>[^']*)': (?P<problem>.*)$")
_ADDITIONAL = re.compile(r"additional propert(?:y|ies) (?P<names>'.+') not allowed")


@dataclass(frozen=True)
class Place:
    """A file and a line of it, counted from 1; 0 where there is no line to name."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Complaint:
    """One thing a chart's schema refuses: the key's path and what is wrong with it."""

    path: tuple[str, ...]
    problem: str
    suggestion: str = ""


def line_of(text: str, path: Sequence[str]) -> int | None:
    """The line on which a key stands, or None; list items are named by their index."""
    try:
        node = _composed(text)
    except yaml.YAMLError:
        return None
    line: int | None = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if getattr(k, "value", None) == part]
            if not pairs:
                return None
            key, node = pairs[-1]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            return None
    return line


@lru_cache(maxsize=64)
def _composed(text: str) -> yaml.Node | None:
    """The nodes of a text, which every finding in one file asks for again."""
    return yaml_loader.compose(text)


def place_of(root: Path, files: Iterable[str], path: Sequence[str]) -> Place | None:
    """Where a value comes from: the last of the files that sets it."""
    for file in reversed(list(files)):
        line = line_of((root / file).read_text(errors="replace"), path)
        if line is not None:
            return Place(file, line)
    return None


def complaints(error: str, schema: dict[str, Any] | None) -> list[Complaint]:
    """What Helm says a schema refuses, one entry a key; empty when it says something else."""
    found = []
    for line in error.splitlines():
        match = _SCHEMA_LINE.match(line.strip())
        if not match:
            continue
        path = tuple(part for part in match["pointer"].split("/") if part)
        extra = _ADDITIONAL.search(match["problem"])
        if not extra:
            found.append(Complaint(path, match["problem"]))
            continue
        known = list(_properties(schema, path)) if schema else []
        for name in re.findall(r"'([^']+)'", extra["names"]):
            near = difflib.get_close_matches(name, known, n=1)
            found.append(
                Complaint((*path, name), "is no key of this chart", near[0] if near else "")
            )
    return found


def schema_of(root: Path, chart: str) -> dict[str, Any] | None:
    """A chart's values schema."""
    path = root / chart / "values.schema.json"
    if not path.is_file():
        return None
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def _properties(schema: dict[str, Any], path: Sequence[str]) -> Iterable[str]:
    """The keys that the schema has at a path."""
    node: Any = schema
    for part in path:
        node = _resolved(schema, node)
        properties = node.get("properties", {})
        if part in properties:
            node = properties[part]
        else:
            others = node.get("additionalProperties")
            items = node.get("items")
            node = others if isinstance(others, dict) else items if isinstance(items, dict) else {}
    return list(_resolved(schema, node).get("properties", {}))


def _resolved(schema: dict[str, Any], node: Any) -> dict[str, Any]:
    while isinstance(node, dict) and "$ref" in node:
        target: Any = schema
        for part in str(node["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node if isinstance(node, dict) else {}
