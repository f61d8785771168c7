"""A service: its source, its values, who calls it, and what each environment runs of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from release.describe import mentions
from release.describe.deployed import Known, describe_releases
from release.describe.facts import Description, Part, place_in
from release.errors import NotFoundError
from release.git.commit_tree import CommitTree
from release.values import layout, scalars, tree

_RELATIONS = ("callers", "calls", "uses", "egressHosts", "check")


def describe(known: Known, name: str) -> Description:
    """What a service, or one release of it, is made of.

    Raises NotFoundError when neither a folder of values/services nor a row has that name.
    """
    at = known.at
    environments = tree.environments(at)
    releases = [
        (environment, row.name)
        for environment in environments
        for row in tree.rows(at, environment)
        if name in (row.name, row.of)
    ]
    if not releases and not at.files(f"{layout.SERVICES}/{name}"):
        listed = {row.name for one in environments for row in tree.rows(at, one)}
        raise tree.unknown_service(name, listed | services(at), "The repository")
    found = Description("service", name)
    _add_sources(found, at, name)
    _add_values(found, at, name)
    _add_neighbours(found.part("calls and callers"), at, name)
    describe_releases(found, known, releases)
    for environment in environments:
        if environment not in {one for one, _ in releases}:
            found.gaps.append(
                f"{environment} has no release of {name}: {layout.environment_file(environment)}"
            )
    found.mentions = mentions.find(at.git, at.commit, {name, name.replace("-", "_")})
    return found


def services(at: CommitTree) -> set[str]:
    """Names of the folders of values/services."""
    return {path.split("/")[2] for path in at.files(layout.SERVICES)}


def values_of(at: CommitTree, name: str) -> Mapping[str, Any]:
    """What a service's own values say; empty where it has none."""
    data = at.read(layout.service_file(name))
    content = None if data is None else scalars.load(data, layout.service_file(name))
    return content if isinstance(content, dict) else {}


def _add_sources(found: Description, at: CommitTree, name: str) -> None:
    part = found.part("source")
    folder = f"apps/{name}"
    if not at.files(folder):
        found.gaps.append(
            f"{folder} is not in this repository: the image of {name} is built elsewhere"
        )
        return
    part.add("package", f"{len(at.files(folder))} files", folder)
    for file in (f"{folder}/Dockerfile", "Dockerfile"):
        if at.read(file) is not None:
            part.add("built by", f"make image APP={name}", file)
            break
    else:
        found.gaps.append(f"neither {folder}/Dockerfile nor Dockerfile builds an image of {name}")
    tests = f"tests/{name.replace('-', '_')}"
    if at.files(tests):
        part.add("tests", f"{len(at.files(tests))} files", tests)
    else:
        found.gaps.append(f"{name} has no tests: {tests} is not there")


def _add_values(found: Description, at: CommitTree, name: str) -> None:
    part = found.part("values of every environment")
    file = layout.service_file(name)
    values = values_of(at, name)
    if not values:
        found.gaps.append(f"{name} has no values of its own: {file} is not there or empty")
    for key, value in values.items():
        part.add(str(key), scalars_in_short(value), place_in(at, file, (str(key),)))
    routes = layout.routes_file(name)
    data = at.read(routes)
    if data is None:
        part.add("routes", "none: it is not reached through the gateway")
        return
    content = scalars.load(data, routes)
    listed = content.get("services") if isinstance(content, dict) else None
    for release, route in (listed or {}).items():
        place = place_in(at, routes, ("services", str(release)))
        part.add(f"routes of {release}", scalars_in_short(route), place)


def scalars_in_short(value: object) -> str:
    """A value of YAML on one line of at most 160 characters."""
    if isinstance(value, dict):
        text = ", ".join(f"{key}: {scalars_in_short(one)}" for key, one in value.items())
        text = f"{{{text}}}"
    elif isinstance(value, list):
        text = f"[{', '.join(scalars_in_short(one) for one in value)}]"
    else:
        text = str(value)
    text = " ".join(text.split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _add_neighbours(part: Part, at: CommitTree, name: str) -> None:
    own = values_of(at, name)
    for key in _RELATIONS:
        for other in own.get(key) or ():
            place = place_in(at, layout.service_file(name), (key, str(other)))
            part.add(key, str(other), place)
    for other in sorted(services(at) - {name}):
        values = values_of(at, other)
        file = layout.service_file(other)
        if name in (values.get("calls") or {}):
            part.add("called by", other, place_in(at, file, ("calls", name)))
        if name in (values.get("callers") or {}):
            part.add("may call", other, place_in(at, file, ("callers", name)))
    if not part.facts:
        part.add("callers", "none is named")


def require(at: CommitTree, environment: str | None) -> list[str]:
    """The environments that are meant: one, or all.

    Raises NotFoundError for one that nobody deploys.
    """
    known = tree.environments(at)
    if environment is None:
        if not known:
            raise NotFoundError("The repository has no environment that somebody deploys.")
        return known
    tree.require_environment(at, environment)
    return [environment]
