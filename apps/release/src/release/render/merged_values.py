"""The values a release is rendered from: its files laid over each other, as Helm does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import yaml

from release import yaml_loader
from release.render.helm import Release
from release.values.merge import Values, laid_over

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
    """One file's mapping, empty where it has none. It is shared: nobody may change it."""
    try:
        return _mapping(path.read_bytes())
    except (OSError, yaml.YAMLError):
        return {}


@lru_cache(maxsize=256)
def _mapping(data: bytes) -> Values:
    """What a text holds; every check of every release asks for the same few files."""
    content = yaml_loader.load(data)
    return content if isinstance(content, dict) else {}


def environment(values: Values) -> dict[str, str]:
    """The environment variables that values set, as a pod sees them."""
    return {name: as_text(value) for name, value in layered(values, "env").items()}


def layered(values: Values, key: str) -> Values:
    """What the platform, each peer in `uses` and the release set under `env` or
    `envFromSecrets`, the later one winning, as charts/service merges them.
    """
    found: Values = {}
    for path in layers(values):
        section: object = values
        for part in (*path, key):
            section = section.get(part) if isinstance(section, dict) else None
        found = laid_over(found, section if isinstance(section, dict) else {})
    return found


def layers(values: Values) -> list[tuple[str, ...]]:
    """Where the sections stand that a release's pods get, from the weakest to its own."""
    uses = values.get("uses")
    used = sorted(name for name, wanted in uses.items() if wanted) if isinstance(uses, dict) else ()
    return [("platform",), *(("platform", "peers", name) for name in used), ()]


def without_platform(values: Values) -> Values:
    """The values with that of the platform's which reaches the release's pods: its `env`."""
    own = {key: value for key, value in values.items() if key != "platform"}
    return {**own, "env": layered(values, "env")} if environment(values) else own


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
