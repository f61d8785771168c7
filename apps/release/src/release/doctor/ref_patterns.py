"""Which branches a ruleset is about: GitHub's patterns of refs.

Source: GitHub's "Creating rulesets for a repository" > "Using fnmatch syntax": Ruby's
File.fnmatch with FNM_PATHNAME, so that ``*`` and ``?`` match no ``/``, and ``**/`` matches any
number of folders, also none; without FNM_EXTGLOB, and without a backslash that quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_TOKEN = re.compile(r"(?P<folders>(?:(?<=/)|^)\*\*/)|(?P<any>\*+)|(?P<one>\?)|\[(?P<set>[^\]]+)\]")


def covers(ruleset: Mapping[str, Any], branch: str, default_branch: str) -> bool:
    """Whether the conditions of a ruleset, as GitHub's API has them, take in a branch."""
    names = (ruleset.get("conditions") or {}).get("ref_name") or {}

    def named(patterns: Sequence[str]) -> bool:
        return any(matches(one, branch, default_branch) for one in patterns)

    return named(names.get("include") or []) and not named(names.get("exclude") or [])


def matches(pattern: str, branch: str, default_branch: str) -> bool:
    """Whether an entry of ``include`` or ``exclude`` means a branch."""
    if pattern == "~ALL":
        return True
    if pattern == "~DEFAULT_BRANCH":
        return branch == default_branch
    return _compiled(pattern).fullmatch(f"refs/heads/{branch}") is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    parts, end = [], 0
    for found in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : found.start()]))
        end = found.end()
        if found["folders"]:
            parts.append("(?:[^/]+/)*")
        elif found["any"]:
            parts.append("[^/]*")
        elif found["one"]:
            parts.append("[^/]")
        else:
            letters = found["set"]
            negated = letters[0] in "!^" and len(letters) > 1
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", letters[1:] if negated else letters)
            parts.append(f"(?!/)[{'^' if negated else ''}{members}]")
    parts.append(re.escape(pattern[end:]))
    try:
        return re.compile("".join(parts))
    except re.error:  # a set like [z-a], which matches nothing
        return re.compile(r"(?!)")
