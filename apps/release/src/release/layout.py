"""Which files make a release: the one reader of argocd/environments and the layout of values/.

Pure: everything else asks here, so that a move of a file is a change of this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from release.errors import BadValuesError

Document = Mapping[str, Any]

ENVIRONMENTS = "argocd/environments"
PROJECTS = "argocd/projects"
SERVICES = "values/services"
PLATFORM = "values/platform"
SHARED = ("charts", "argocd", PLATFORM, SERVICES)
"""What all environments are made of: no promotion and no rollback of one changes it."""
NO_ENVIRONMENTS = frozenset({"services", "platform"})
"""Folders of values/ that belong to no environment."""

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.S)
_FIELD = re.compile(r"\.(\w+)")
_OWN_OR_OTHER = re.compile(r'dig "(\w+)" (?:\.(\w+)|"(\w*)") \.')


@dataclass(frozen=True)
class Row:
    """A row of an environment's ApplicationSet with the files that it names.

    Paths are relative to the tree's root, in the order in which Helm reads them; some may not be
    there.
    """

    environment: str
    name: str
    chart: str
    of: str
    """The service whose image and values the release shares; its own name where no other."""
    folder: str
    namespace: str
    files: tuple[str, ...]


def environment_file(environment: str) -> str:
    """Path of an environment's ApplicationSet."""
    return f"{ENVIRONMENTS}/{environment}.yaml"


def project_file(environment: str) -> str:
    """Path of an environment's namespace and AppProject."""
    return f"{PROJECTS}/{environment}.yaml"


def service_file(service: str) -> str:
    """Path of the values that a service has in every environment."""
    return f"{SERVICES}/{service}/service.yaml"


def routes_file(service: str) -> str:
    """Path of a service's routes, which the environments' releases of charts/routing read."""
    return f"{SERVICES}/{service}/routes.yaml"


def values_file(environment: str, release: str) -> str:
    """Path of what people set for a release in one environment."""
    return f"values/{environment}/{release}.yaml"


def environment_of(path: str) -> str | None:
    """The environment that a path of argocd/environments is of."""
    folder, _, name = path.rpartition("/")
    known = folder == ENVIRONMENTS and name.endswith(".yaml")
    return name.removesuffix(".yaml") if known else None


def rows(document: object, environment: str) -> list[Row]:
    """The releases that an environment's ApplicationSet lists, in their order.

    Raises BadValuesError when the document is no ApplicationSet with lists of releases, or its
    template says something that is not understood here.
    """
    try:
        spec = document["spec"]  # type: ignore[index]
        template = spec.get("template", {}).get("spec", {})
        return [
            _row(environment, template, row)
            for generator in spec["generators"]
            for row in generator["list"]["elements"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadValuesError(
            f"{environment_file(environment)} is not an ApplicationSet with a list of releases "
            f"({error!r}).",
            fix="give it list generators whose elements have `release` and `chart`",
        ) from error


def _row(environment: str, template: Document, row: Document) -> Row:
    name, chart = str(row["release"]), str(row["chart"])
    source = template.get("source", {})
    folder = filled(str(source.get("path", f"charts/{chart}")), row)
    named = [filled(str(path), row) for path in source.get("helm", {}).get("valueFiles", [])]
    paths = [os.path.normpath(f"{folder}/{path}") for path in named]
    namespace = filled(str(template.get("destination", {}).get("namespace", environment)), row)
    of = str(row.get("of") or name)
    return Row(environment, name, chart, of, folder, namespace, tuple(dict.fromkeys(paths)))


def filled(text: str, row: Document) -> str:
    """A template's text for a row: ``{{ .field }}``, ``{{ dig "field" .other . }}`` and
    ``{{ dig "field" "text" . }}``.

    Anything else of Go's templates stays as it is; `release validate` finds it.
    """

    def value(found: re.Match[str]) -> str:
        action = found[1]
        if (field := _FIELD.fullmatch(action)) and field[1] in row:
            return str(row[field[1]])
        if (either := _OWN_OR_OTHER.fullmatch(action)) is not None:
            if either[1] in row:
                return str(row[either[1]])
            if either[2] is None or either[2] in row:
                return str(either[3] if either[2] is None else row[either[2]])
        return found[0]

    return _ACTION.sub(value, text)
