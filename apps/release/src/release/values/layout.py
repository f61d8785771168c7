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
HOSTS = "slipway/hosts"
"""Annotation of an environment's namespace: its hosts at the gateway, and those below them."""
NO_ENVIRONMENTS = frozenset({"services", "platform"})
"""Folders of values/ that belong to no environment."""

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.S)
_FIELD = re.compile(r"\.(\w+)")
_OWN_OR_OTHER = re.compile(r'dig "(\w+)" (?:\.(\w+)|"(\w*)") \.')
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_PATTERN = re.compile(r"[*?\[\]{}]")
_OF_HELM = {
    "releaseName",
    "valueFiles",
    "ignoreMissingValueFiles",
    "skipCrds",
    "skipTests",
    "version",
}
"""What a template may say of Helm: nothing that sets values beside the files."""


@dataclass(frozen=True)
class Entry:
    """What a row of an environment's ApplicationSet says itself."""

    name: str
    chart: str
    of: str
    """The service whose image and values the release shares; its own name where no other."""


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


def entries(document: object, environment: str) -> list[Entry]:
    """The releases that an environment's ApplicationSet lists, in their order.

    Raises BadValuesError when the document is no ApplicationSet with lists of releases.
    """
    return [_entry(environment, row) for row in _elements(document, environment)]


def rows(document: object, environment: str) -> list[Row]:
    """The releases that an environment's ApplicationSet lists with the files that they name.

    Raises BadValuesError as `entries` does, and where its template sets values or names files in
    a way that is not understood here: what Argo CD deploys would not be what is read here.
    """
    found = _elements(document, environment)
    spec = document["spec"]  # type: ignore[index]
    template = spec.get("template") or {}
    if "templatePatch" in spec:
        raise _refused(
            environment, "spec.templatePatch", "is not read by `release`",
            "say it in spec.template, with a field of the rows where releases differ",
        )  # fmt: skip
    if "{{" in str(template) and spec.get("goTemplate") is not True:
        raise _refused(
            environment, "spec.goTemplate", "is not true: Argo CD fills in no {{ .field }}",
            "write goTemplate: true",
        )  # fmt: skip
    return [_row(environment, template.get("spec") or {}, row) for row in found]


def _elements(document: object, environment: str) -> list[Document]:
    try:
        generators = document["spec"]["generators"]  # type: ignore[index]
        found = [list(one["list"]["elements"]) for one in generators]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadValuesError(
            f"{environment_file(environment)} is not an ApplicationSet with a list of releases "
            f"({error!r}).",
            fix="give it list generators whose elements have `release` and `chart`",
        ) from error
    for number, one in enumerate(generators):
        for extra in (set(one) - {"list"}) | (set(one["list"]) - {"elements"}):
            raise _refused(
                environment, f"spec.generators.{number}", f"has {extra}, which is not read by "
                "`release`", "list the releases as `elements` of `list` generators alone",
            )  # fmt: skip
    return [row for rows in found for row in rows]


def _entry(environment: str, row: Document) -> Entry:
    if not isinstance(row, Mapping):
        raise _refused(
            environment, f"the row {row!r}", "is no map", "write {release: name, chart: service}"
        )
    for field in ("release", "chart", "of"):
        value = row.get(field)
        if (field in row or field != "of") and not (
            isinstance(value, str) and _NAME.fullmatch(value)
        ):
            said = f"is {value!r}, which is no name" if field in row else "is missing"
            raise _refused(
                environment, f"the row {dict(row)!r}: {field}", said,
                "write lower-case letters, digits and dashes; a number stands in quotes",
            )  # fmt: skip
    return Entry(row["release"], row["chart"], row.get("of", row["release"]))


def _row(environment: str, template: Document, row: Document) -> Row:
    entry = _entry(environment, row)
    source = template.get("source") or {}
    helm = source.get("helm") or {}
    for key, there in (("spec.template.spec", template), ("spec.template.spec.source", source)):
        for other in {"sources", "chart", "kustomize", "plugin"} & set(there):
            raise _refused(
                environment, f"{key}.{other}", "is not read by `release`",
                "name one source with a path and Helm's valueFiles",
            )  # fmt: skip
    for other in sorted(set(helm) - _OF_HELM):
        raise _refused(
            environment, f"spec.template.spec.source.helm.{other}", "is not read by `release`",
            "set values in the files that valueFiles names",
        )  # fmt: skip

    def text(value: object, key: str) -> str:
        done = filled(str(value), row)
        if "{{" in done:
            raise _refused(
                environment, f"spec.template.spec.{key}", f"is {value!r}, which is not "
                f"understood for the release {entry.name}",
                'use {{ .field }}, {{ dig "field" .other . }} or {{ dig "field" "text" . }}, with '
                "fields of the row",
            )  # fmt: skip
        return done

    folder = text(source.get("path", f"charts/{entry.chart}"), "source.path")
    name = text(helm.get("releaseName", entry.name), "source.helm.releaseName")
    if name != entry.name:
        raise _refused(
            environment, "spec.template.spec.source.helm.releaseName",
            f"is {name!r} for the release {entry.name}", 'write "{{ .release }}"',
        )  # fmt: skip
    key = "source.helm.valueFiles"
    named = [text(path, key) for path in helm.get("valueFiles") or []]
    paths = [_inside(environment, f"spec.template.spec.{key}", folder, path) for path in named]
    namespace = text(
        (template.get("destination") or {}).get("namespace", environment), "destination.namespace"
    )
    files = tuple(dict.fromkeys(paths))
    return Row(environment, entry.name, entry.chart, entry.of, folder, namespace, files)


def _inside(environment: str, key: str, folder: str, path: str) -> str:
    """A value file's path from the top of the tree; one that begins with / is from there."""
    full = os.path.normpath(path.lstrip("/") if path.startswith("/") else f"{folder}/{path}")
    if "://" in path or path.startswith("$"):
        said, fix = "is no file of this tree", "copy what it sets into a file of values/"
    elif full == ".." or full.startswith("../"):
        said, fix = "leads out of the tree", "name a file of values/"
    elif _PATTERN.search(path):
        said, fix = "is a pattern", "name each file; those that are not there are passed over"
    else:
        return full
    raise _refused(environment, key, f"names {path!r}, which {said}", fix)


def _refused(environment: str, key: str, said: str, fix: str) -> BadValuesError:
    return BadValuesError(f"{environment_file(environment)}: {key} {said}.", fix=fix)


def filled(text: str, row: Document) -> str:
    """A template's text for a row: ``{{ .field }}``, ``{{ dig "field" .other . }}`` and
    ``{{ dig "field" "text" . }}``.

    Anything else of Go's templates stays as it is.
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
