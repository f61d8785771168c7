"""An environment: its namespace, its rules, and what it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from release import yaml_loader
from release.describe import mentions
from release.describe.deployed import Known, describe_releases
from release.describe.facts import Description, Part, place_in
from release.errors import BadValuesError
from release.git.commit_tree import CommitTree
from release.values import holds, layout, promotion_policy, tree


def describe(known: Known, name: str) -> Description:
    """What an environment is made of.

    Raises NotFoundError when nobody deploys it.
    """
    at = known.at
    tree.require_environment(at, name)
    found = Description("environment", name)
    _add_namespace(found, at, name)
    _add_rules(found.part("rules"), known, name)
    rows = tree.rows(at, name)
    platform = sorted(
        {file for row in rows for file in row.files if file.startswith(f"{layout.PLATFORM}/")}
    )
    part = found.part("values of the platform")
    for file in platform:
        if at.read(file) is None:
            found.gaps.append(f"{file} is named by {layout.environment_file(name)} and not there")
        else:
            part.add("values", "of every release", file)
    describe_releases(found, known, [(name, row.name) for row in rows])
    listed = {row.name for row in rows}
    for release in sorted(tree.present(at, name) - listed):
        found.gaps.append(
            f"values/{name}/{release}.* has no row in {layout.environment_file(name)}: "
            "nobody deploys it"
        )
    found.mentions = mentions.find(at.git, at.commit, {name})
    return found


def _add_namespace(found: Description, at: CommitTree, name: str) -> None:
    part = found.part("namespace and project")
    file = layout.project_file(name)
    data = at.read(file)
    if data is None:
        found.gaps.append(f"{file} is missing: nothing makes its namespace and AppProject")
        return
    namespaces = {row.namespace for row in tree.rows(at, name)}
    for document in _documents(data, file):
        if not isinstance(document, dict):
            continue
        kind = document.get("kind")
        if kind == "Namespace":
            _add_hosts(found, part, document, file)
        elif kind == "AppProject":
            part.add("project", document["metadata"]["name"], file)
    part.add("Applications", f"of the namespace {', '.join(sorted(namespaces)) or '-'}",
             layout.environment_file(name))  # fmt: skip


def _add_hosts(found: Description, part: Part, namespace: Any, file: str) -> None:
    metadata = namespace.get("metadata") or {}
    part.add("namespace", str(metadata.get("name")), file)
    hosts = (metadata.get("annotations") or {}).get(layout.HOSTS)
    if hosts:
        part.add("hosts", str(hosts), file)
    else:
        found.gaps.append(f"{file} names no hosts (annotation {layout.HOSTS}): no host is admitted")


def _add_rules(part: Part, known: Known, name: str) -> None:
    at = known.at
    rules = promotion_policy.read(at, name)
    sources = rules.sources
    said = f"from {', '.join(sources)}" if sources else "from any environment"
    if at.read(promotion_policy.PATH) is None:
        part.add("promotion into it", f"{said}: there is no {promotion_policy.PATH}")
    else:
        part.add("promotion into it", said, place_in(at, promotion_policy.PATH, (name,)))
    if rules.soak:
        place = place_in(at, promotion_policy.PATH, (name, "soak"))
        part.add("soak before it", str(rules.soak), place)
    for window in rules.windows:
        place = place_in(at, promotion_policy.PATH, (name, "windows"))
        part.add("window", str(window), place)
    for other in tree.environments(at):
        if name in promotion_policy.read(at, other).sources:
            part.add("promoted to", other, place_in(at, promotion_policy.PATH, (other, "from")))
    for hold in holds.read(at, name):
        if hold.active(known.now):
            part.add("hold", str(hold), tree.hold_file(name))


def _documents(data: bytes, file: str) -> Iterable[object]:
    try:
        return list(yaml_loader.load_all(data))
    except yaml.YAMLError as error:
        raise BadValuesError(f"{file} is not YAML: {error}") from error
