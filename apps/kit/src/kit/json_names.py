"""JSON objects that have one name twice: parsers keep the last value and do not say so. Pure.

RFC 8259, 4: what becomes of such an object differs between readers, so a proxy and a server that
read one request may see two.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_TOKEN = re.compile(rb'("(?:[^"\\]+|\\.)*")([ \t\r\n]*:)?|[{}]')

_NESTED = (dict, list)


def repeated_name(document: bytes, parsed: Any) -> str | None:
    """A name that one of the document's objects has twice, or None.

    ``parsed`` is what a parser made of ``document``, which must be JSON. Where the document has
    as many colons as ``parsed`` has names, no name was lost; only otherwise is it searched.
    """
    if document.count(b":") == count_names(parsed):
        return None
    return _search(document)


def count_names(parsed: Any) -> int:
    """How many names its objects have; lists are looked into where their first item is an object.

    So it is never more than there are. However deep they lie: no frame of the interpreter's stack
    is needed for each.
    """
    count = 0
    left = [parsed]
    while left:
        value = left.pop()
        if type(value) is dict:
            count += len(value)
            left += [each for each in value.values() if type(each) in _NESTED]
        elif type(value) is list and value and type(value[0]) is dict:
            left += value
    return count


def _search(document: bytes) -> str | None:
    open_objects: list[set[bytes]] = []
    for token in _TOKEN.finditer(document):
        text, colon = token.groups()
        if text is None:
            if token[0] == b"{":
                open_objects.append(set())
            else:
                open_objects.pop()
        elif colon is not None:
            name = orjson.loads(text).encode() if b"\\" in text else text[1:-1]
            if name in open_objects[-1]:
                return str(name.decode("utf-8", "replace"))
            open_objects[-1].add(name)
    return None


def message(name: str) -> str:
    """What the error says to the caller."""
    return f"the name {name[:100]!r} stands twice in one JSON object: send each name once"
