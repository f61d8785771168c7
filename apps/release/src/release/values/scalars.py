"""Change scalars of a YAML file and nothing else: every other byte stays as it is.

Round-tripping a file through a YAML library moves comments, quotes and blank lines. So the
library only says *where* a scalar stands (its marks), and the new text is put in its place.
The result is read again and compared before it is returned.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from release.errors import BadValuesError

Path = tuple[str | int, ...]
Value = str | int

_PROPERTIES = re.compile(r"(?:[&!]\S*(?:\s+|$))*")
# Unquoted only what both YAML 1.1 (Helm's parser) and 1.2 read as a string beyond doubt.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+-]*(?::[A-Za-z0-9_./@+-]+)*")
_WORDS = re.compile(r"y|yes|n|no|true|false|on|off|null", re.IGNORECASE)


@dataclass(frozen=True)
class _Scalar:
    start: int
    end: int
    style: str | None
    value: str
    line: int
    anchor: str | None


@dataclass(frozen=True)
class _Alias:
    name: str
    line: int


@dataclass(frozen=True)
class _Sequence:
    items: list[_Node]
    line: int


@dataclass(frozen=True)
class _Mapping:
    pairs: list[tuple[_Scalar, _Node]] = field(default_factory=list)
    line: int = 0


_Node = _Scalar | _Alias | _Sequence | _Mapping


def dotted(path: Path) -> str:
    """``("http", 0, "weight")`` as ``http[0].weight``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def load(data: bytes, file: str) -> Any:
    """The file's content as plain Python data; an empty file is ``{}``.

    Raises BadValuesError, naming file and line, when it is not one YAML document.
    """
    return copy.deepcopy(_loaded(data, file))  # whoever asks may change what is theirs


@lru_cache(maxsize=64)
def _loaded(data: bytes, file: str) -> Any:
    """`load`, once for each text: one command asks for the same files many times."""
    try:
        content = YAML(typ="safe", pure=True).load(_decode(data, file))
    except YAMLError as error:
        raise BadValuesError(f"{file} is not YAML: {_where(error)}") from error
    return {} if content is None else content


def read(data: bytes, path: Path, file: str) -> str:
    """The text of one scalar, as written without its quotes (``1`` is ``"1"``).

    Raises BadValuesError when the key is missing or is not a scalar.
    """
    text = _decode(data, file)
    return _find(_parse(text, file), path, file)[0].value


def edit(data: bytes, changes: Mapping[Path, Value], file: str) -> bytes:
    """``data`` with the scalars at the paths of ``changes`` replaced.

    A scalar that has the value already keeps its bytes. The quotes of the old value are
    kept; an unquoted value gets quotes when YAML would not read the new one as a string.

    Raises BadValuesError, naming key, file and line, when a key is missing (none is ever
    invented), stands twice, is not a scalar, is an alias or inherited, carries an anchor that
    other keys use, or is a block scalar.
    """
    text = _decode(data, file)
    root = _parse(text, file)
    replacements: list[tuple[int, int, str]] = []
    for path, value in changes.items():
        scalar, after_key = _find(root, path, file)
        if scalar.value == str(value) and (scalar.value or scalar.style):
            continue
        if scalar.anchor is not None and scalar.anchor in set(_aliases(root)):
            raise BadValuesError(
                f"{dotted(path)} in {file}, line {scalar.line}, is shared: other keys repeat it "
                f"as *{scalar.anchor}.",
                fix="write the other keys' values where they stand",
            )
        if scalar.style in ("|", ">"):
            raise BadValuesError(
                f"{dotted(path)} in {file}, line {scalar.line}, is a block scalar.",
                fix="write the value on the key's own line",
            )
        if scalar.start == scalar.end:
            if scalar.anchor is not None:
                raise BadValuesError(
                    f"{dotted(path)} in {file}, line {scalar.line}, has an anchor and no value.",
                    fix='write it as ""',
                )
            replacements.append((after_key, after_key, " " + written(value, None)))
        else:
            replacements.append((scalar.start, scalar.end, written(value, scalar.style)))
    for start, end, new in sorted(replacements, reverse=True):
        text = text[:start] + new + text[end:]
    edited = text.encode()
    _check(data, edited, changes, file)
    return edited


def _check(before: bytes, after: bytes, changes: Mapping[Path, Value], file: str) -> None:
    """The edited file must read as the old one with exactly these changes."""
    wanted, got = load(before, file), load(after, file)
    for path, value in changes.items():
        for content in (wanted, got):
            target = content
            for part in path[:-1]:
                target = target[part]
            if content is got and str(target[path[-1]]) != str(value):
                raise BadValuesError(f"{dotted(path)} in {file} cannot be set to {value!r}.")
            target[path[-1]] = value
    if wanted != got:
        raise BadValuesError(
            f"{file} cannot be edited in place: setting "
            f"{', '.join(dotted(path) for path in changes)} would change other keys."
        )


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadValuesError(f"{file} is not UTF-8 at byte {error.start}.") from error


def _where(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}." if mark is not None else f"{problem}."


@lru_cache(maxsize=64)
def _parse(text: str, file: str) -> _Node:
    """The nodes of a text, which nobody changes, once for each text."""
    try:
        events = list(YAML(typ="safe", pure=True).parse(text))
    except YAMLError as error:
        raise BadValuesError(f"{file} is not YAML: {_where(error)}") from error
    if sum(isinstance(event, DocumentStartEvent) for event in events) != 1:
        raise BadValuesError(f"{file} must hold exactly one YAML document.")
    body = iter(events[2:])
    return _node(next(body), body, text, file)


def _node(event: Event, events: Iterator[Event], text: str, file: str) -> _Node:
    line = event.start_mark.line + 1
    if isinstance(event, AliasEvent):
        return _Alias(event.anchor, line)
    if isinstance(event, ScalarEvent):
        return _scalar(event, text)
    if isinstance(event, SequenceStartEvent):
        items: list[_Node] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(_node(event, events, text, file))
        return _Sequence(items, line)
    if not isinstance(event, MappingStartEvent):
        raise BadValuesError(f"{file} has an unexpected {type(event).__name__} on line {line}.")
    pairs: list[tuple[_Scalar, _Node]] = []
    while not isinstance(event := next(events), MappingEndEvent):
        key = _node(event, events, text, file)
        value = _node(next(events), events, text, file)
        if isinstance(key, _Scalar):  # keys that are no scalars cannot be named by a path
            pairs.append((key, value))
    return _Mapping(pairs, line)


def _scalar(event: ScalarEvent, text: str) -> _Scalar:
    start, end = event.start_mark.index, event.end_mark.index
    properties = _PROPERTIES.match(text, start, end)
    assert properties is not None
    return _Scalar(
        start=properties.end() if start != end else start,
        end=end,
        style=event.style,
        value=event.value,
        line=event.start_mark.line + 1,
        anchor=event.anchor,
    )


def _aliases(node: _Node) -> Iterator[str]:
    if isinstance(node, _Alias):
        yield node.name
    elif isinstance(node, _Sequence):
        for item in node.items:
            yield from _aliases(item)
    elif isinstance(node, _Mapping):
        for _, value in node.pairs:
            yield from _aliases(value)


def _find(root: _Node, path: Path, file: str) -> tuple[_Scalar, int]:
    """The scalar at a path, and the position just behind its key's colon."""
    node, after_key = root, 0
    for depth, part in enumerate(path):
        here = dotted(path[: depth + 1])
        if isinstance(node, _Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            continue
        found = (
            [pair for pair in node.pairs if pair[0].value == part]
            if isinstance(node, _Mapping)
            else []
        )
        if len(found) > 1:
            raise BadValuesError(
                f"{here} stands twice in {file}, lines "
                f"{' and '.join(str(key.line) for key, _ in found)}.",
                fix="delete one of them",
            )
        if not found:
            inherited = isinstance(node, _Mapping) and any(k.value == "<<" for k, _ in node.pairs)
            raise BadValuesError(
                f"{file} has no key {here}"
                + (" of its own (it is inherited by <<)." if inherited else "."),
                fix="add it, with the value \"\" for 'not deployed yet'",
            )
        key, node = found[0]
        after_key = key.end + 1
    if isinstance(node, _Alias):
        raise BadValuesError(
            f"{dotted(path)} in {file}, line {node.line}, is the alias *{node.name}.",
            fix="write its value in its place",
        )
    if not isinstance(node, _Scalar):
        raise BadValuesError(f"{dotted(path)} in {file}, line {node.line}, is not a scalar.")
    return node, after_key


def written(value: Value, style: str | None) -> str:
    """A value as YAML text, in the quotes its predecessor had (``style``)."""
    if isinstance(value, int):
        return str(value)
    if any(ord(character) < 0x20 or character == "\x7f" for character in value):
        raise BadValuesError(f"The value {value!r} has control characters in it.")
    if style == "'":
        return "'" + value.replace("'", "''") + "'"
    if style is None and _PLAIN.fullmatch(value) and not _WORDS.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
