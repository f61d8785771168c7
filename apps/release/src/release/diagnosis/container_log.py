"""What a container said of its trouble: the reason and the fix, out of the end of its log."""

from __future__ import annotations

import json
from typing import Any

from kit.lifecycle import termination
from kit.lifecycle.termination import GAVE_UP, NOT_READY, Reason

_TELLING = ("event", "message", "error", "reason", "caused_by")
"""Keys of a line of JSON that say what happened; stamina names what it tries again `caused_by`."""
LONGEST = 300
"""Characters of a reason that are shown."""


def read(text: str) -> Reason:
    """The reason in a termination message or in the end of a log; empty for an empty text.

    A line of Slipway's services that says why they wait or end goes first, the newest one of them;
    then the last line that reports an error, then the last line.
    """
    ending = termination.read(text)
    if ending.fix and "\n" not in ending.text:
        return Reason(ending.text[:LONGEST], ending.fix)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    entries = [_entry(line) for line in lines]
    for entry in reversed(entries):
        if entry.get("message") in (NOT_READY, GAVE_UP):
            return Reason(str(entry.get("reason", ""))[:LONGEST], str(entry.get("fix", "")))
    errors = [at for at, entry in enumerate(entries) if _severe(lines[at], entry)]
    if not lines:
        return Reason("")
    at = errors[-1] if errors else len(lines) - 1
    return Reason(_text(lines[at], entries[at])[:LONGEST], str(entries[at].get("fix", "")))


def _entry(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _severe(line: str, entry: dict[str, Any]) -> bool:
    if entry:
        return str(entry.get("level", "")).lower() in ("error", "critical", "fatal")
    return "error" in line.lower()


def _text(line: str, entry: dict[str, Any]) -> str:
    parts = [str(entry.get(key, "")) for key in _TELLING]
    return ": ".join(dict.fromkeys(part for part in parts if part)) or line
