"""Folders, files and rows that belong together: every release is listed, every file is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any

from release.errors import BadValuesError
from release.render.helm import Release
from release.validate.files import applications
from release.validate.findings import Finding
from release.values import holds, layout, promotion_policy
from release.values.folder import Folder
from release.values.tree import FORMER_MODEL_SUFFIX, IMAGE_SUFFIX, MODEL_SUFFIX, hold_file

# Files below values/ that belong to an environment rather than to one of its releases.
_ENVIRONMENT_FILES = {"hold"}
ROOT = applications.ROOT
# gobwas/glob 0.2.3, which Argo CD uses: `{a/*,bc/*}.yaml` matches names of one length alone.
_UNRELIABLE = re.compile(r"\{[^{}]*\*[^{}]*\}[^{}]")


def of_tree(root: Path, known: Sequence[str]) -> Iterator[Finding]:
    """Folders nobody deploys, and machine-owned files that cannot be read."""
    folders = {
        path.name for path in (root / "values").iterdir() if path.is_dir()
    } - layout.NO_ENVIRONMENTS
    for name in sorted(folders - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"rename it to {near[0]}, or " if near else ""
        yield Finding(
            f"values/{name}", 0, "", f"nobody deploys the environment {name!r}: there is no "
            f"ApplicationSet {layout.environment_file(name)} in {root.resolve()}",
            f"{hint}add {layout.environment_file(name)}",
        )  # fmt: skip
    for name in sorted(set(known) - folders):
        yield Finding(
            layout.environment_file(name), 0, "", f"the environment {name!r} has no values",
            f"add values/{name}/",
        )  # fmt: skip
    yield from _unread(root, layout.PLATFORM)
    for folder in sorted((root / layout.SERVICES).glob("*/")):
        yield from _unread(root, f"{layout.SERVICES}/{folder.name}")
    for problem in promotion_policy.problems(Folder(root)):
        yield Finding(
            promotion_policy.PATH, problem.line, problem.key, problem.message, problem.fix
        )


def of_root(root: Path, environments: Sequence[str]) -> Iterator[Finding]:
    """Argo CD applies an ApplicationSet that the root includes, to namespaces its project allows.

    Namespaces are compared as patterns, as Argo CD does; ``!name`` forbids one.
    """
    path = root / ROOT
    if path.is_file():
        yield from _read_by_root(root, path, environments)
    for document in applications.documents(path):
        if document.get("kind") == "Application":
            yield from applications.of_source(root, ROOT, document.get("spec", {}))
    projects = applications.projects(root)
    namespaces = {}
    for name in environments:
        for document in applications.documents(root / layout.environment_file(name)):
            spec = document.get("spec", {}).get("template", {}).get("spec", {})
            if document.get("kind") == "ApplicationSet" and spec.get("project") in projects:
                namespace = str(spec.get("destination", {}).get("namespace", name)).strip()
                namespace = name if "{{" in namespace else namespace
                namespaces[name] = namespace, projects[spec["project"]]
    for name, (namespace, project) in namespaces.items():
        yield from _destinations(name, namespace, project, namespaces)


def _read_by_root(root: Path, path: Path, environments: Sequence[str]) -> Iterator[Finding]:
    """Argo CD reads the files of each environment: the root's folder, with what it leaves out."""
    source = (applications.documents(path) or [{}])[0].get("spec", {}).get("source", {})
    folder = source.get("directory", {})
    if not folder.get("recurse"):
        yield Finding(
            ROOT, _line(path, "directory:"), "spec.source.directory.recurse",
            f"is not set: Argo CD does not look into {layout.ENVIRONMENTS}, and nobody deploys "
            "an environment", "write recurse: true",
        )  # fmt: skip
    for key in ("include", "exclude"):
        pattern = folder.get(key)
        if isinstance(pattern, str) and _UNRELIABLE.search(pattern):
            yield Finding(
                ROOT, _line(path, f"{key}:"), f"spec.source.directory.{key}",
                f"is {pattern!r}: Argo CD's library of patterns matches alternatives with a * "
                "before other text only where they are of one length, and passes over the rest",
                "put each alternative, with its end, into the braces",
            )  # fmt: skip
    for name in environments:
        for file in (layout.environment_file(name), layout.project_file(name)):
            inside = file.removeprefix("argocd/")
            for key, wanted in (("include", True), ("exclude", False)):
                pattern = folder.get(key)
                if not isinstance(pattern, str) or not (root / file).is_file():
                    continue
                if any(fnmatch(inside, one) for one in alternatives(pattern)) is not wanted:
                    yield Finding(
                        ROOT, _line(path, f"{key}:"), f"spec.source.directory.{key}",
                        f"leaves out {file}: nobody deploys the environment {name!r}, "
                        f"whose values are in {(root / 'values' / name).resolve()}",
                        f"let it name {inside}, or delete {file} and values/{name}"
                        if wanted else f"take {inside} out of it",
                    )  # fmt: skip


def _destinations(
    name: str,
    namespace: str,
    project: dict[str, Any],
    namespaces: Mapping[str, tuple[str, dict[str, Any]]],
) -> Iterator[Finding]:
    """An environment's project allows its own namespace, and that of no other environment."""
    file = layout.project_file(name)
    allowed = [str(one.get("namespace", "")) for one in project["spec"].get("destinations") or []]
    title = project["metadata"]["name"]
    if not _allows(allowed, namespace):
        yield Finding(
            file, 0, "spec.destinations",
            f"does not allow the namespace {namespace!r}, to which "
            f"{layout.environment_file(name)} deploys: Argo CD refuses all of its releases",
            f"add a destination with namespace {namespace} to the project {title}",
        )  # fmt: skip
    others = [
        other
        for other, (theirs, _) in namespaces.items()
        if theirs != namespace and _allows(allowed, theirs)
    ]
    if others:
        yield Finding(
            file, 0, "spec.destinations",
            f"lets the project {title} into the namespace of {' and '.join(others)}: values of "
            f"{name} may make objects in {others[0]}",
            f"name the namespace {namespace} alone",
        )  # fmt: skip


def _allows(allowed: Sequence[str], namespace: str) -> bool:
    """Whether destinations allow a namespace: patterns, of which ``!name`` forbids one."""
    forbidden = [one[1:] for one in allowed if one.startswith("!")]
    return not any(fnmatch(namespace, one) for one in forbidden) and any(
        fnmatch(namespace, one) for one in allowed if not one.startswith("!")
    )


def alternatives(pattern: str) -> list[str]:
    """The globs of Argo CD's ``include``: braces hold alternatives, as in ``{dev,prod}.yaml``."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    names = [one.strip() for one in found[1].split(",")]
    texts = [text for name in names for text in alternatives(f"{before}{name}{after}")]
    return list(dict.fromkeys(texts))


def _line(path: Path, text: str) -> int:
    lines = path.read_text(errors="replace").splitlines()
    return next((number for number, line in enumerate(lines, 1) if text in line), 0)


def of_environment(root: Path, environment: str, listed: Sequence[Release]) -> Iterator[Finding]:
    """Every release is listed, and every listed release exists."""
    argocd = layout.environment_file(environment)
    names = [release.name for release in listed]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Finding(argocd, 0, name, "is listed twice", "delete one of the rows")
    for path in sorted((root / "values" / environment).glob("*.yaml")):
        stem = path.name.split(".", 1)[0]
        if stem in names or stem in _ENVIRONMENT_FILES:
            continue
        near = difflib.get_close_matches(stem, names, n=1)
        yield Finding(
            f"values/{environment}/{path.name}", 0, stem,
            f"is an unknown release: {argocd} does not list it, so nothing reads this file",
            f"did you mean {near[0]}?" if near else f"add a row for it to {argocd}, or delete it",
        )  # fmt: skip
    yield from _unread(root, f"values/{environment}")
    try:
        holds.read(Folder(root), environment)
    except BadValuesError as error:
        yield Finding(hold_file(environment), 0, "", error.message.rstrip("."), error.fix)
    for release in listed:
        for absent in _needed(release):
            alike = _near_service(root, release.service) if "/services/" in absent else ""
            hint = f"did you mean {'of: ' if release.of else ''}{alike}? Else " if alike else ""
            yield Finding(
                argocd, 0, release.name, f"is listed, but {absent} is not there",
                f"{hint}write {absent}, or delete the row",
            )  # fmt: skip
    of = {release.name: release.of for release in listed if release.of}
    for name, shared in of.items():
        if shared in of:
            yield Finding(
                argocd, 0, name, f"is of {shared}, which is itself of {of[shared]}: it gets the "
                f"values of {shared} without those of {of[shared]}",
                f"name the service whose image it runs, like of: {of[shared]}"
                if of[shared] not in of else "name a service that is no release of another one",
            )  # fmt: skip
    yield from _unread_routes(root, argocd, listed)
    used = {path for release in listed for path in release.files}
    for path in sorted((root / "values" / environment).glob("*.yaml")):
        relative = f"values/{environment}/{path.name}"
        stem = path.name.split(".", 1)[0]
        if stem in names and relative not in used:
            if path.name.endswith(FORMER_MODEL_SUFFIX):
                yield Finding(
                    relative, 0, "", "is read by nothing: models stand in a map",
                    f"run `release model set --release {stem}`, which makes {stem}{MODEL_SUFFIX} "
                    "of it, or delete it",
                )  # fmt: skip
                continue
            yield Finding(
                relative, 0, "", "is read by nothing: the ApplicationSet names no such file",
                f"one of {stem}.yaml, {stem}{IMAGE_SUFFIX}, {stem}{MODEL_SUFFIX}",
            )  # fmt: skip


def _near_service(root: Path, name: str) -> str:
    there = [path.parent.name for path in (root / layout.SERVICES).glob("*/service.yaml")]
    return next(iter(difflib.get_close_matches(name, there, n=1)), "")


def _needed(release: Release) -> Iterator[str]:
    """What a listed release lacks: the values of its service, and those of this environment."""
    service = layout.service_file(release.service)
    if release.chart == "service" and service in release.missing:
        yield service
    own = layout.values_file(release.environment, release.name)
    if own in release.missing and release.chart != "service":
        yield own


def _unread_routes(root: Path, argocd: str, listed: Sequence[Release]) -> Iterator[Finding]:
    """A service's routes are read by the environment's release of charts/routing."""
    routing = next((release for release in listed if release.chart == "routing"), None)
    services = {
        name for one in listed if one.chart == "service" for name in (one.name, one.service)
    }
    for path in sorted(map(layout.routes_file, services)) if routing else ():
        if routing and (root / path).is_file() and path not in routing.files:
            yield Finding(
                argocd, 0, "spec.template.spec.source.helm.valueFiles",
                f"does not name {path}: no request is routed by it",
                f"add a line for it beside those of the other services' routes, or delete {path}",
            )  # fmt: skip


def _unread(root: Path, folder: str) -> Iterator[Finding]:
    """Files with another name than those that Argo CD reads; pages and hidden files are people's.

    Anything below a folder counts as one with it.
    """
    for path in sorted((root / folder).glob("*")):
        if (path.is_file() and path.suffix in (".yaml", ".md")) or path.name.startswith("."):
            continue
        right = f"{folder}/{path.stem}.yaml"
        if path.suffix != ".yml":
            fix = "delete it, or move it out of values/"
        elif (root / right).exists():
            fix = f"move what it sets into {right}, and delete it"
        else:
            fix = f"rename it to {right}"
        yield Finding(
            f"{folder}/{path.name}", 0, "", "is read by nothing: values are files named "
            "<release>.yaml, and Argo CD passes over what is not there", fix,
        )  # fmt: skip
