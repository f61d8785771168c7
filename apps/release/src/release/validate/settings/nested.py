"""What is wrong inside a value that is JSON, by the schema of its setting: keys, types, limits."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Complaint:
    """One fault: where in the JSON, what, and what to do."""

    where: str
    message: str
    fix: str
    path: tuple[str, ...] = ()
    """Keys from the setting down to what is wrong."""


def complaints(schema: Mapping[str, Any], value: object) -> Iterator[Complaint]:
    """Each fault of a value once; a key that is misspelt is not missing besides."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - a tenth of a second

    errors = [
        leaf for error in Draft202012Validator(schema).iter_errors(value) for leaf in _leaves(error)
    ]
    misspelt: set[tuple[str, str]] = set()
    for error in errors:
        if error.validator != "additionalProperties":
            continue
        known = sorted(error.schema.get("properties", {}))
        for key in sorted(set(error.instance) - set(known)):
            near = difflib.get_close_matches(key, known, n=1)
            misspelt |= {(_where(error), name) for name in near}
            yield Complaint(
                _where(error), f"has the key {key!r}, which nothing reads",
                f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}",
                (*_path(error), key),
            )  # fmt: skip
    for error in errors:
        if error.validator == "additionalProperties":
            continue
        if error.validator == "required":
            lacking = [name for name in error.validator_value if name not in error.instance]
            lacking = [name for name in lacking if (_where(error), name) not in misspelt]
            # jsonschema has an error for each of them.
            named = [name for name in lacking if repr(name) in error.message]
            for name in named:
                message = f"lacks the key {name!r}"
                yield Complaint(_where(error), message, f"add {name!r}", _path(error))
        elif not _is_number_as_text(error):
            yield Complaint(_where(error), _cut(error.message), "", _path(error))


def _leaves(error: Any) -> Iterator[Any]:
    """An error, or those of the alternative that was most likely meant."""
    if error.validator not in ("oneOf", "anyOf") or not error.context:
        yield error
        return
    branches: dict[int, list[Any]] = {}
    for one in error.context:
        branches.setdefault(one.relative_schema_path[0], []).append(one)
    for one in min(branches.values(), key=_distance):
        yield from _leaves(one)


def _distance(errors: Sequence[Any]) -> tuple[bool, bool, int]:
    """How far a value is from an alternative: another type or tag is furthest."""
    other_type = any(one.validator == "type" and not one.relative_path for one in errors)
    other_tag = any(one.validator == "const" for one in errors)
    return other_type, other_tag, sum(_weight(one) for one in errors)


def _weight(error: Any) -> int:
    if error.validator == "additionalProperties":
        return len(set(error.instance) - set(error.schema.get("properties", {})))
    return 1


def _is_number_as_text(error: Any) -> bool:
    """The services read "5" as 5 there, and "true" as true."""
    if error.validator != "type" or not isinstance(error.instance, str):
        return False
    try:
        float(error.instance)
    except ValueError:
        return error.instance.lower() in ("true", "false")
    return True


def _where(error: Any) -> str:
    return ".".join(_path(error))


def _path(error: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in error.absolute_path)


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"
