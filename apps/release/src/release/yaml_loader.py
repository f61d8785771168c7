"""YAML read by libyaml where PyYAML has it: ten times as fast as PyYAML's own parser.

What edits a file by the marks of its nodes, and what explains to a person why a file is no YAML,
keeps PyYAML's own parser.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str | bytes) -> Any:
    """The one document of a text, None where it has none.

    Raises yaml.YAMLError for what is no YAML, and for a text of several documents.
    """
    return yaml.load(text, _LOADER)  # noqa: S506 - both are safe loaders


def load_all(text: str | bytes) -> Iterator[Any]:
    """The documents of a text. Raises yaml.YAMLError at the first that is no YAML."""
    return yaml.load_all(text, _LOADER)


def compose(text: str) -> yaml.Node | None:
    """The nodes of the one document of a text, with the lines on which they stand.

    Raises yaml.YAMLError as `load` does.
    """
    node: yaml.Node | None = yaml.compose(text, _LOADER)
    return node


def compose_all(text: str) -> Iterator[yaml.Node | None]:
    """The nodes of every document of a text, as of `compose`."""
    return yaml.compose_all(text, _LOADER)
