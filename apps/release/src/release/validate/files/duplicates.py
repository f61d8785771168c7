"""A key that stands twice in one mapping: Helm takes the last one without a warning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from release import yaml_loader
from release.validate.findings import Finding


def findings(root: Path) -> Iterator[Finding]:
    """Of all files of values and argocd."""
    for folder in ("values", "argocd"):
        for path in sorted((root / folder).rglob("*.yaml")):
            yield from of_file(str(path.relative_to(root)), path.read_text(errors="replace"))


def of_file(file: str, text: str) -> Iterator[Finding]:
    """Of one file; one that is no YAML has none, and rendering says what is wrong with it."""
    try:
        for document in yaml_loader.compose_all(text):
            yield from _of_node(file, document, ())
    except yaml.YAMLError:
        return


def _of_node(file: str, node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[Finding]:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _of_node(file, item, (*path, str(number)))
    elif isinstance(node, yaml.ScalarNode):
        line = node.start_mark.line + 1
        for key in dict.fromkeys(_twice_in_json(node.value)):
            yield Finding(
                file, line, ".".join(path), f"the JSON in it has the key {key!r} twice, and the "
                "last one is used without a warning", f"keep one {key!r}",
            )  # fmt: skip
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, list[int]] = {}
        for key, value in node.value:
            name = str(key.value)
            lines.setdefault(name, []).append(key.start_mark.line + 1)
            yield from _of_node(file, value, (*path, name))
        for name, found in lines.items():
            if len(found) > 1:
                numbers = f"{', '.join(map(str, found[:-1]))} and {found[-1]}"
                yield Finding(
                    file, found[-1], ".".join((*path, name)), f"stands {len(found)} times, on the "
                    f"lines {numbers}: Helm takes the last one without a warning",
                    "keep one, with what both set",
                )  # fmt: skip


def _twice_in_json(text: str) -> list[str]:
    if not text.lstrip().startswith(("{", "[")):
        return []
    found: list[str] = []

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in items]
        found.extend(name for name in names if names.count(name) > 1)
        return dict(items)

    try:
        json.loads(text, object_pairs_hook=pairs)
    except ValueError:
        return []
    return found
