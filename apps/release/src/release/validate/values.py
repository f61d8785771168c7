"""The values a release is rendered from: its files laid over each other, as Helm does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from release.render import Release

Values = dict[str, Any]
Leaf = tuple[tuple[str, ...], str]


def of_files(root: Path, release: Release) -> Values:
    """What the release's own files set together; the chart's defaults are not in it.

    A key that a later file sets to null is gone. A file that is no YAML mapping counts as empty:
    rendering says what is wrong with it.
    """
    found: Values = {}
    for path in release.files:
        found = laid_over(found, read(root / path))
    return found


def with_defaults(root: Path, release: Release) -> Values:
    """`of_files` over the chart's defaults."""
    defaults = root / release.folder / "values.yaml"
    return laid_over(read(defaults) if defaults.is_file() else {}, of_files(root, release))


def read(path: Path) -> Values:
    """One file's mapping, empty where it has none."""
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def laid_over(below: Values, above: Values) -> Values:
    """Mappings are merged key by key, everything else is replaced, null takes a key away."""
    made = dict(below)
    for key, value in above.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict):
            base = made.get(key)
            made[key] = laid_over(base if isinstance(base, dict) else {}, value)
        else:
            made[key] = value
    return made


def environment(values: Values) -> dict[str, str]:
    """The environment variables that values set, as a pod sees them."""
    variables = values.get("env")
    if not isinstance(variables, dict):
        return {}
    return {str(name): as_text(value) for name, value in variables.items()}


def as_text(value: object) -> str:
    """A value as an environment variable holds it: text as it is, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def strings(value: object, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every string below a value with the path of its key, JSON inside strings opened."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from strings(one, (*path, str(key)))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from strings(one, (*path, str(number)))
    elif isinstance(value, str):
        opened = parsed(value)
        if isinstance(opened, dict | list):
            # The place in the file is that of the string itself.
            yield from ((path, text) for _, text in strings(opened))
        else:
            yield path, value


def parsed(text: str) -> object:
    """JSON in a string; the string itself where it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
