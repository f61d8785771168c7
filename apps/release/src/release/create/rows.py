"""Edits of an environment's ApplicationSet: a row more, a routes file more. Pure.

Every other byte, comments included, stays as it is, however the file is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from release import yaml_loader
from release.errors import BadValuesError
from release.values import layout

_ROUTES = re.compile(r"(\S*/values/services/)([\w.-]+)(/\{\{.*\}\}\.yaml)")
_OF_ROUTING = 'dig "reads"'


def with_row(text: str, path: str, release: str, *, chart: str = "service", of: str = "") -> str:
    """The file with a row for a release at the end of its list; as it was where it has one.

    Raises BadValuesError where the file has no list of rows to which one could be added.
    """
    shared = f", of: {of}" if of and of != release else ""
    row = f"{{release: {release}, chart: {chart}{shared}}}"
    fix = f"add the row {row} to the elements of its list generator by hand"
    lists = [one for one in _lists(text) if one.value]
    if not lists:
        raise BadValuesError(f"{path} lists no releases.", fix=fix)
    names = [name for one in lists for item in one.value if (name := _field(item, "release"))]
    if release in names:
        return text
    longer = _with_item(text, lists[-1], lists[-1].value[-1], row)
    _check(text, longer, path, fix)
    return longer


def with_routes(text: str, path: str, service: str) -> str:
    """The file with the routes of a service among those that the release `routing` reads.

    As it was where it lists no release of charts/routing. Raises BadValuesError where it names no
    other service's routes beside which the line could stand.
    """
    charts = [_field(item, "chart") for one in _lists(text) for item in one.value]
    if "routing" not in charts:
        return text
    wanted = f'../../values/services/{service}/{{{{ dig "reads" "none" . }}}}.yaml'
    files = _at(_composed(text), "spec", "template", "spec", "source", "helm", "valueFiles")
    found = [
        (item, match)
        for item in (files.value if isinstance(files, yaml.SequenceNode) else [])
        if _OF_ROUTING in item.value and (match := _ROUTES.fullmatch(item.value))
    ]
    if any(match[2] == service for _, match in found):
        return text
    fix = f"add {wanted} to its valueFiles, and `reads: routes` to the row of routing, by hand"
    if not found or not isinstance(files, yaml.SequenceNode):
        raise BadValuesError(f"{path} names no routes.yaml among its valueFiles.", fix=fix)
    last, match = found[-1]
    quote = "'" if files.flow_style or last.style else ""
    line = f"{quote}{match[1]}{service}{match[3]}{quote}"
    longer = _with_item(text, files, last, line)
    _check(text, longer, path, fix)
    return longer


def with_servers(text: str, path: str, environment: str) -> str:
    """The file with `<release>.servers.yaml` among the values of its releases.

    As it was where it names them. Raises BadValuesError where it names no `<release>.models.yaml`
    behind which the line could stand.
    """
    files = _at(_composed(text), "spec", "template", "spec", "source", "helm", "valueFiles")
    items = files.value if isinstance(files, yaml.SequenceNode) else []
    if any(item.value.endswith("}}.servers.yaml") for item in items):
        return text
    found = [item for item in items if item.value.endswith("}}.models.yaml")]
    fix = (
        f"add ../../values/{environment}/{{{{ .release }}}}.servers.yaml to its valueFiles by hand"
    )
    if not found or not isinstance(files, yaml.SequenceNode):
        raise BadValuesError(f"{path} names no models.yaml among its valueFiles.", fix=fix)
    line = found[-1].value.removesuffix(".models.yaml") + ".servers.yaml"
    quote = "'" if files.flow_style or found[-1].style else ""
    longer = _with_item(text, files, found[-1], f"{quote}{line}{quote}")
    _check(text, longer, path, fix)
    return longer


def without_row(text: str, path: str, release: str) -> str:
    """The file without the row of a release; every other byte stays as it is.

    Raises BadValuesError where it has no such row, or only this one.
    """
    for one in _lists(text):
        for index, item in enumerate(one.value):
            if _field(item, "release") != release:
                continue
            if one.flow_style:
                after = index + 1 < len(one.value)
                start = item.start_mark.index if after else one.value[index - 1].end_mark.index
                end = one.value[index + 1].start_mark.index if after else item.end_mark.index
            else:
                start = text.rfind("\n", 0, item.start_mark.index) + 1
                end = text.find("\n", _end(item)) + 1 or len(text)
            shorter = text[:start] + text[end:]
            _check_without(text, shorter, path, release)
            return shorter
    raise BadValuesError(f"{path} has no row of {release}.", fix="remove what is left by hand")


def _check_without(before: str, after: str, path: str, release: str) -> None:
    environment = path.rpartition("/")[2].removesuffix(".yaml")
    try:
        old = layout.entries(yaml_loader.load(before), environment)
        new = layout.entries(yaml_loader.load(after), environment)
    except (yaml.YAMLError, BadValuesError):
        new, old = [], []
    if not new or new != [one for one in old if one.name != release]:
        raise BadValuesError(
            f"{path} is written in a way that cannot be edited.",
            fix=f"remove the row of {release} by hand",
        )


def _with_item(text: str, items: yaml.SequenceNode, after: yaml.Node, item: str) -> str:
    """A list with an item more behind one of its own."""
    end = _end(after)
    if items.flow_style:
        return f"{text[:end]}, {item}{text[end:]}"
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    head, tail = text[:stop], text[stop:]
    newline = "\r\n" if head.endswith("\r") or (not tail and "\r\n" in text) else "\n"
    indent = " " * items.start_mark.column
    return f"{head.removesuffix(chr(13))}{newline}{indent}- {item}{newline}{tail[1:]}"


def _end(node: yaml.Node) -> int:
    """Where the text of a node ends: that of a block ends with what stands in it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _check(before: str, after: str, path: str, fix: str) -> None:
    """The edit added one item, and changed nothing that was there."""
    try:
        longer = [*_leaves(yaml_loader.load(after))]
        kept = [*_leaves(yaml_loader.load(before))]
        layout.rows(yaml_loader.load(after), path.rpartition("/")[2].removesuffix(".yaml"))
    except (yaml.YAMLError, BadValuesError) as error:
        raise BadValuesError(
            f"{path} is written in a way that cannot be edited.", fix=fix
        ) from error
    rest = iter(longer)
    if not all(one in rest for one in kept) or len(longer) == len(kept):
        raise BadValuesError(f"{path} is written in a way that cannot be edited.", fix=fix)


def _leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _leaves(value)
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value)
    else:
        yield content


def _lists(text: str) -> list[yaml.SequenceNode]:
    """The lists of rows of all generators."""
    generators = _at(_composed(text), "spec", "generators")
    found = [
        _at(one, "list", "elements")
        for one in (generators.value if isinstance(generators, yaml.SequenceNode) else [])
    ]
    return [one for one in found if isinstance(one, yaml.SequenceNode)]


def _composed(text: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    return node


def _at(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            return None
        node = next((value for name, value in node.value if name.value == key), None)
    return node


def _field(node: yaml.Node, key: str) -> str:
    value = _at(node, key)
    return str(value.value) if isinstance(value, yaml.ScalarNode) else ""
