"""What argocd/ says of an environment: its own namespace, the repository, and fields that exist."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any

import yaml

from release import yaml_loader
from release.render import merged_values
from release.render.helm import Release
from release.validate.findings import Finding, at_value
from release.values import layout, locations

ROOT = "argocd/root.yaml"
_ACTION = re.compile(r"\{\{(.*?)\}\}", re.S)
_FIELD = re.compile(r"(?<![\w)\]$])\.([A-Za-z_]\w*)")
_SPEC = ("spec", "template", "spec")
_POD_SECURITY = "pod-security.kubernetes.io/enforce"

Document = Mapping[str, Any]


def documents(path: Path) -> list[dict[str, Any]]:
    """The mappings of a file; none where it is no YAML, which kubeconform says."""
    try:
        found = list(yaml_loader.load_all(path.read_bytes()))
    except (OSError, yaml.YAMLError):
        return []
    return [one for one in found if isinstance(one, dict)]


def projects(root: Path) -> dict[str, dict[str, Any]]:
    """The AppProjects of the tree by name."""
    return {
        document["metadata"]["name"]: document
        for file in sorted((root / layout.PROJECTS).glob("*.yaml"))
        for document in documents(file)
        if document.get("kind") == "AppProject"
    }


def findings(root: Path, environment: str, known: Sequence[str]) -> Iterator[Finding]:
    """Of one environment's ApplicationSet, held against the others, the root and the projects."""
    sets = {name: one for name in known if (one := _set(root, name)) is not None}
    own = sets.get(environment)
    if own is None:
        return
    yield from _destination(root, environment, sets)
    yield from _values(root, environment, own, known)
    yield from _fields(root, environment, own)
    file = layout.environment_file(environment)
    yield from of_source(root, file, own["spec"]["template"]["spec"], _SPEC)
    yield from _revision(root, file, environment, sets)
    yield from of_namespace(root, environment)


def of_source(
    root: Path, file: str, spec: Document, path: tuple[str, ...] = ("spec",)
) -> Iterator[Finding]:
    """The project of an application is there, and allows its repository."""
    there, name = projects(root), str(spec.get("project", ""))
    if not there or name == "default":  # Argo CD has that one by itself
        return
    if name not in there:
        near = difflib.get_close_matches(name, sorted(there), n=1)
        yield _at(
            root, file, (*path, "project"),
            f"is {name!r}, and no file of {layout.PROJECTS} has such an AppProject: Argo CD "
            "deploys nothing",
            f"did you mean {near[0]}?" if near else f"use one of {', '.join(sorted(there))}",
        )  # fmt: skip
        return
    url = str(spec.get("source", {}).get("repoURL", ""))
    repositories = [str(one) for one in there[name].get("spec", {}).get("sourceRepos", [])]
    allowed = [_normal(one) for one in repositories if not one.startswith("!")]
    denied = [_normal(one[1:]) for one in repositories if one.startswith("!")]
    if "{{" in url or (
        any(fnmatch(_normal(url), one) for one in allowed)
        and not any(fnmatch(_normal(url), one) for one in denied)
    ):
        return
    yield _at(
        root, file, (*path, "source", "repoURL"),
        f"is {url!r}, which the project {name} does not allow: Argo CD deploys nothing",
        f"use one of its sourceRepos ({', '.join(repositories) or 'none'}), or add it there",
    )  # fmt: skip


def hosts(
    root: Path, rows: Mapping[str, Sequence[Release]], chosen: Sequence[str]
) -> Iterator[Finding]:
    """A host that several environments name: their requests go to any one of them."""
    named: dict[str, dict[str, Release]] = {}
    for environment, releases in rows.items():
        for release in releases:
            if release.chart == "routing":
                own = merged_values.of_files(root, release).get("hosts")
                for host in own if isinstance(own, list) else ():
                    named.setdefault(str(host), {})[environment] = release
    for host, owners in sorted(named.items()):
        if len(owners) < 2 or not owners.keys() & set(chosen):
            continue
        rightful = owners.keys() & set(re.split(r"[.-]", host))
        for environment in sorted(owners.keys() - rightful or owners):
            yield at_value(
                root, owners[environment], "hosts",
                f"names {host!r}, as {' and '.join(sorted(owners))} do at one gateway: requests "
                "reach the wrong environment", "give each environment hosts of its own",
                ("hosts",),
            )  # fmt: skip


def foreign_hosts(
    root: Path, rows: Mapping[str, Sequence[Release]], chosen: Sequence[str]
) -> Iterator[Finding]:
    """Hosts that the cluster refuses, and namespaces that may have another one's hosts.

    As argocd/platform/admission.yaml judges them: by the namespace's annotation slipway/hosts.
    """
    allowed = {name: found for name in rows if (found := _allowed_hosts(root, name)) is not None}
    for environment in chosen:
        if environment not in allowed:
            continue
        mine = allowed[environment]
        file = layout.project_file(environment)
        for release in rows.get(environment, ()):
            own = merged_values.of_files(root, release).get("hosts")
            for host in own if release.chart == "routing" and isinstance(own, list) else ():
                if not any(_is_below(str(host), one) for one in mine):
                    yield at_value(
                        root, release, "hosts",
                        f"names {str(host)!r}, and the namespace of {environment} has "
                        f"{', '.join(mine) or 'no host'} and what is below (slipway/hosts in "
                        f"{file}): the cluster refuses it",
                        "write a host of those, in lower case, or have an operator add it to "
                        f"{file}",
                        ("hosts",),
                    )  # fmt: skip
        for other, theirs in allowed.items():
            for one in theirs:
                wide = [host for host in mine if _is_below(one, host)]
                if other != environment and wide:
                    yield Finding(
                        file, _line(root, file, layout.HOSTS),
                        f"metadata.annotations.{layout.HOSTS}",
                        f"has {wide[0]!r}, and so {one!r} of {other} as well: {environment} may "
                        f"take the requests of {other}", "give each environment hosts of its own",
                    )  # fmt: skip


def _allowed_hosts(root: Path, environment: str) -> list[str] | None:
    """What the annotation of its namespace lists; None where no namespace here is held by it."""
    for document in documents(root / layout.project_file(environment)):
        metadata = document.get("metadata") or {}
        if document.get("kind") == "Namespace" and "slipway/environment" in (
            metadata.get("labels") or {}
        ):
            listed = str((metadata.get("annotations") or {}).get(layout.HOSTS) or "")
            return [one for part in listed.split(",") if (one := part.strip())]
    return None


def _is_below(host: str, allowed: str) -> bool:
    return host == allowed or host.endswith(f".{allowed}")


def _line(root: Path, file: str, key: str) -> int:
    """The first line on which a key stands, in a file of several documents; 0 where none does."""
    lines = (root / file).read_text(errors="replace").splitlines()
    return next((n for n, line in enumerate(lines, 1) if line.strip().startswith(f"{key}:")), 0)


def of_namespace(root: Path, environment: str) -> Iterator[Finding]:
    """A namespace that is made here is guarded: Pod Security is enforced, and pods get sidecars.

    None where something else makes the namespace.
    """
    file = layout.project_file(environment)
    for document in documents(root / file):
        if document.get("kind") != "Namespace":
            continue
        labels = document.get("metadata", {}).get("labels") or {}
        enforced = labels.get(_POD_SECURITY)
        if enforced not in ("restricted", "baseline"):
            yield Finding(
                file, 0, f"metadata.labels.{_POD_SECURITY}", f"is {enforced!r}: the namespace of "
                f"{environment} takes pods that may do anything to their node",
                "write restricted, or baseline where a pod cannot do with that",
            )  # fmt: skip
        if labels.get("istio-injection") != "enabled" and not labels.get("istio.io/rev"):
            yield Finding(
                file, 0, "metadata.labels.istio-injection", f"does not put the pods of "
                f"{environment} into the mesh: what their sidecars refuse is let through",
                "write istio-injection: enabled, or istio.io/rev: <revision>",
            )  # fmt: skip


def _set(root: Path, environment: str) -> dict[str, Any] | None:
    for document in documents(root / layout.environment_file(environment)):
        template = document.get("spec", {}).get("template", {})
        if document.get("kind") == "ApplicationSet" and isinstance(template.get("spec"), dict):
            return document
    return None


def _destination(root: Path, environment: str, sets: Mapping[str, Document]) -> Iterator[Finding]:
    """No two environments have the same namespace of a cluster, nor applications of one name."""
    places_of = {name: _namespace(name, one) for name, one in sets.items()}
    mine = places_of[environment]
    others = [name for name, place in places_of.items() if name != environment and place == mine]
    # Where one of the two has its own name's namespace, the other one is wrong.
    if mine[1] != environment and (others or mine[1] in sets):
        owner = mine[1] if mine[1] in sets else others[0]
        yield _at(
            root, f"argocd/environments/{environment}.yaml", (*_SPEC, "destination", "namespace"),
            f"is {mine[1]!r}, the namespace of {owner}: a deployment of {environment} replaces "
            f"what runs in {owner}", f"write {environment}",
        )  # fmt: skip
    name = str(sets[environment]["spec"]["template"].get("metadata", {}).get("name", ""))
    for other, one in sets.items():
        same = name and name == str(one["spec"]["template"].get("metadata", {}).get("name", ""))
        if other != environment and same and not name.startswith(f"{environment}-"):
            yield _at(
                root, layout.environment_file(environment),
                ("spec", "template", "metadata", "name"),
                f"is {name!r}, as in {layout.environment_file(other)}: Argo CD has one application "
                "of a name",
                f"write {environment}-{{{{ .release }}}}",
            )  # fmt: skip
            break


def _namespace(environment: str, document: Document) -> tuple[str, str]:
    destination = document["spec"]["template"]["spec"].get("destination", {})
    namespace = str(destination.get("namespace", environment)).strip()
    cluster = str(destination.get("server") or destination.get("name") or "")
    return cluster, environment if "{{" in namespace else namespace


def _values(
    root: Path, environment: str, document: Document, known: Sequence[str]
) -> Iterator[Finding]:
    """An environment reads its own values, and those of no other one."""
    paths = document["spec"]["template"]["spec"].get("source", {}).get("helm", {})
    for number, path in enumerate(paths.get("valueFiles", [])):
        match = re.search(r"(?:^|/)values/([^/{]+)/", str(path))
        if match and match[1] != environment and match[1] in known:
            yield _at(
                root, f"argocd/environments/{environment}.yaml",
                (*_SPEC, "source", "helm", "valueFiles", str(number)),
                f"is {path!r}, the values of {match[1]}: {environment} would run with them",
                f"write {str(path).replace(f'values/{match[1]}/', f'values/{environment}/')}",
            )  # fmt: skip


def _fields(root: Path, environment: str, document: Document) -> Iterator[Finding]:
    """Every field that the template names is one of each row."""
    file = f"argocd/environments/{environment}.yaml"
    generators = document["spec"].get("generators") or []
    rows = [row for one in generators for row in one.get("list", {}).get("elements", [])]
    fields = set.intersection(*(set(row) for row in rows)) if rows else set()
    if not fields or any("list" not in one for one in generators):
        return
    for path, text in merged_values.strings(document["spec"]["template"]):
        for action in _ACTION.findall(text):
            for name in _FIELD.findall(re.sub(r'"[^"]*"|`[^`]*`', '""', action)):
                if name in fields:
                    continue
                near = difflib.get_close_matches(name, sorted(fields), n=1)
                yield _at(
                    root, file, ("spec", "template", *path),
                    f"names the field .{name}, which not every row has: Argo CD makes no "
                    "application of it",
                    f"did you mean .{near[0]}?" if near
                    else f"use one of {', '.join(sorted(fields))}, or add {name} to each row",
                )  # fmt: skip


def _revision(
    root: Path, file: str, environment: str, sets: Mapping[str, Document]
) -> Iterator[Finding]:
    """All follow one branch: the one that `release` writes to."""
    followed = {
        name: str(one["spec"]["template"]["spec"].get("source", {}).get("targetRevision", "HEAD"))
        for name, one in sets.items()
    }
    roots = [
        str(one.get("spec", {}).get("source", {}).get("targetRevision", "HEAD"))
        for one in documents(root / ROOT)
        if one.get("kind") == "Application"
    ]
    usual, count = Counter([*roots, *followed.values()]).most_common(1)[0]
    mine = followed[environment]
    if mine != usual and (count > 1 or roots):
        yield _at(
            root, file, (*_SPEC, "source", "targetRevision"),
            f"is {mine!r}, and the rest of argocd/ follows {usual!r}: a commit there does not "
            f"reach {environment}", f"write {usual}",
        )  # fmt: skip
    if roots and roots[0] != usual and count > 1:
        yield _at(
            root, ROOT, ("spec", "source", "targetRevision"),
            f"is {roots[0]!r}, and the environments follow {usual!r}: a change of argocd/ there "
            "does not reach Argo CD", f"write {usual}",
        )  # fmt: skip


def _normal(url: str) -> str:
    """A repository's address as Argo CD compares it."""
    return url.strip().lower().removesuffix("/").removesuffix(".git")


def _at(root: Path, file: str, path: tuple[str, ...], message: str, fix: str) -> Finding:
    text = (root / file).read_text(errors="replace")
    return Finding(file, locations.line_of(text, path) or 0, ".".join(path), message, fix)
