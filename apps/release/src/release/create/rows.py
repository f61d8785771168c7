"""Edits of an environment's ApplicationSet: a row more, a routes file more. Pure.

Every other byte, comments included, stays as it is.
"""

from __future__ import annotations

import re

from release.errors import BadValuesError

_ROW = re.compile(r"^( *)- \{ *release: *([\w.-]+) *,[^\n]*\}[^\n]*\n", re.M)
_ROUTES = re.compile(r"^( *)- (\S*/values/services/)([\w.-]+)(/\{\{ dig \"reads\"[^\n]*)\n", re.M)


def with_row(text: str, path: str, release: str, *, chart: str = "service", of: str = "") -> str:
    """The file with a row for a release at the end of its list; as it was where it has one.

    Raises BadValuesError where no row is written as ``- {release: name, ...}``.
    """
    rows = list(_ROW.finditer(text))
    if any(row[2] == release for row in rows):
        return text
    if not rows:
        raise BadValuesError(
            f"{path} has no row written as `- {{release: …, chart: …}}`.",
            fix=f"add the row {{release: {release}, chart: {chart}}} to its list by hand",
        )
    last = rows[-1]
    shared = f", of: {of}" if of and of != release else ""
    row = f"{last[1]}- {{release: {release}, chart: {chart}{shared}}}\n"
    return text[: last.end()] + row + text[last.end() :]


def without_row(text: str, release: str) -> str:
    """The file without the row of a release and without its routes."""
    text = _ROW.sub(lambda row: "" if row[2] == release else row[0], text)
    return _ROUTES.sub(lambda line: "" if line[3] == release else line[0], text)


def with_routes(text: str, path: str, service: str) -> str:
    """The file with the routes of a service among those that the release `routing` reads.

    Raises BadValuesError where the list of files is not written as it is shipped.
    """
    lines = list(_ROUTES.finditer(text))
    if any(line[3] == service for line in lines):
        return text
    if not lines:
        raise BadValuesError(
            f"{path} names no routes.yaml among its valueFiles.",
            fix=f"add the line of another service with {service} in its place by hand",
        )
    last = lines[-1]
    line = f"{last[1]}- {last[2]}{service}{last[4]}\n"
    return text[: last.end()] + line + text[last.end() :]
