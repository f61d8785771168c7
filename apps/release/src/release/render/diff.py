"""What two commits would apply, compared resource by resource; secrets masked, noise left out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from release.errors import NotFoundError
from release.git.commit_tree import CommitTree
from release.git.program import Git
from release.render import helm
from release.render.helm import Manifest, Release, Rendered

# GitHub refuses longer comments.
COMMENT_LIMIT = 65_536
# By this a later run finds the comment to replace.
MARKER = "<!-- release diff -->"
_NOISE = ("helm.sh/chart", "app.kubernetes.io/managed-by")
_SECRET_NAME = re.compile(
    r"passw|token|secret|credential|private|api_?key|access_?key|webhook|dsn", re.IGNORECASE
)
_MASK = "***"

Key = tuple[str, str, str]


@dataclass(frozen=True)
class ResourceDiff:
    """One resource: ``added``, ``removed`` or ``changed``, with a unified diff."""

    kind: str
    namespace: str
    name: str
    change: str
    text: str


@dataclass(frozen=True)
class ApplicationDiff:
    """One application; ``error`` is why the newer side cannot be rendered."""

    name: str
    resources: Sequence[ResourceDiff]
    error: str = ""

    def count(self, change: str) -> int:
        """How many resources have this change."""
        return sum(resource.change == change for resource in self.resources)


def compare(git: Git, base: str, head: str, only: Sequence[str] = ()) -> list[ApplicationDiff]:
    """The applications that differ between two commits, by name.

    An application whose chart and value files are the same objects in both is not rendered.

    Raises NotFoundError for an environment that neither of them has.
    """
    with helm.exported(git, base) as old_root, helm.exported(git, head) as new_root:
        known = {*helm.environments(old_root), *helm.environments(new_root)}
        for environment in set(only) - known:
            raise NotFoundError(
                f"Nobody deploys the environment {environment!r}.",
                fix=f"use one of {', '.join(sorted(known)) or '(none)'}",
            )
        old, new = _releases(old_root, only), _releases(new_root, only)
        trees = CommitTree(git, base), CommitTree(git, head)
        touched = {
            name
            for name in old.keys() | new.keys()
            if _inputs(trees[0], old.get(name)) != _inputs(trees[1], new.get(name))
        }
        before = _rendered(old_root, [r for name, r in old.items() if name in touched])
        after = _rendered(new_root, [r for name, r in new.items() if name in touched])
    found = []
    for name in sorted(touched):
        error = after[name].error if name in after else ""
        if error:
            found.append(ApplicationDiff(name, (), error))
            continue
        resources = tuple(resource_diffs(_manifests(before.get(name)), _manifests(after.get(name))))
        if resources:
            found.append(ApplicationDiff(name, resources))
    return found


def resource_diffs(old: Sequence[Manifest], new: Sequence[Manifest]) -> Iterator[ResourceDiff]:
    """The differences between two sets of manifests, in the order of their kinds and names."""
    before, after = _by_key(old), _by_key(new)
    for key in sorted(before.keys() | after.keys()):
        a, b = masked(before.get(key), after.get(key))
        if a == b:
            continue
        change = "added" if a is None else "removed" if b is None else "changed"
        lines = difflib.unified_diff(_lines(a), _lines(b), "old", "new", lineterm="", n=3)
        text = "\n".join(list(lines)[2:])
        kind, namespace, name = key
        yield ResourceDiff(kind, namespace, name, change, text)


def masked(old: Manifest | None, new: Manifest | None) -> tuple[Manifest | None, Manifest | None]:
    """Both sides with secret values masked; a changed one is marked, not shown."""
    a, b = _secrets(old), _secrets(new)
    hidden_old = dict.fromkeys(a, _MASK)
    hidden_new = {
        path: _MASK if path not in a or a[path] == value else f"{_MASK} (changed)"
        for path, value in b.items()
    }
    return _replaced(old, hidden_old), _replaced(new, hidden_new)


def markdown(found: Sequence[ApplicationDiff], title: str, limit: int = COMMENT_LIMIT) -> str:
    """A comment of at most ``limit`` characters: the table always, details as far as they fit."""
    if not found:
        return f"{MARKER}\n### {title}\n\nNothing that is applied changes.\n"
    rows = [
        f"| {app.name} | {app.count('added')} | {app.count('changed')} | {app.count('removed')} |"
        + (" cannot be rendered |" if app.error else " |")
        for app in found
    ]
    head = (
        f"{MARKER}\n### {title}\n\n"
        "| application | added | changed | removed | |\n|---|---|---|---|---|\n"
    )
    text = head
    for index, row in enumerate(rows):
        # Room for the sentence that says how much is left out.
        if len(text) + len(row) > limit - 200:
            return f"{text}\n{len(rows) - index} more applications change.\n"
        text += row + "\n"
    left: list[str] = []
    for app in found:
        size = sum(len(resource.text) for resource in app.resources)
        block = _details(app, names_only=len(text) + size > limit - 400)
        if len(text) + len(block) > limit - 400:
            block = _details(app, names_only=True)
        if len(text) + len(block) > limit - 400:
            left.append(app.name)
            continue
        text += block
    if left:
        text += f"\nToo long to show: {', '.join(left)[:150]}. Run `release diff` to see it all.\n"
    return text


def _details(app: ApplicationDiff, *, names_only: bool = False) -> str:
    if app.error:
        body = f"```\n{app.error[:2000]}\n```"
    elif names_only:
        names = [f"- {r.change} {r.kind} {r.name}" for r in app.resources]
        body = "\n".join(names)
    else:
        blocks = []
        for resource in app.resources:
            fence = "`" * max(3, *(len(m) + 1 for m in re.findall("`+", resource.text)), 3)
            blocks.append(
                f"{resource.change} {resource.kind} {resource.name}\n"
                f"{fence}diff\n{resource.text}\n{fence}"
            )
        body = "\n\n".join(blocks)
    return f"\n<details><summary>{app.name}</summary>\n\n{body}\n\n</details>\n"


def _releases(root: Path, only: Sequence[str]) -> dict[str, Release]:
    return {
        str(release): release
        for environment in helm.environments(root)
        if not only or environment in only
        for release in helm.releases(root, environment)
    }


def _inputs(tree: CommitTree, release: Release | None) -> tuple[object, ...] | None:
    """All that decides what is rendered."""
    if release is None:
        return None
    paths = [*release.files, *tree.files(release.folder)]
    return (release, tuple((path, tree.blob(path)) for path in paths))


def _rendered(root: Path, wanted: Sequence[Release]) -> dict[str, Rendered]:
    return {str(r.release): r for r in helm.render_all(root, wanted)}


def _manifests(rendered: Rendered | None) -> list[Manifest]:
    return rendered.manifests if rendered is not None and not rendered.error else []


def _by_key(manifests: Sequence[Manifest]) -> dict[Key, Manifest]:
    found: dict[Key, Manifest] = {}
    for manifest in manifests:
        metadata = manifest["metadata"]
        cleaned = {**manifest, "metadata": {**metadata}}
        labels = {k: v for k, v in metadata.get("labels", {}).items() if k not in _NOISE}
        if "labels" in metadata:
            cleaned["metadata"]["labels"] = labels
        key = (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        found[key] = cleaned
    return found


def _secrets(manifest: Manifest | None) -> dict[tuple[str | int, ...], str]:
    """Paths of the values that must not be shown."""
    if manifest is None:
        return {}
    found: dict[tuple[str | int, ...], str] = {}
    if manifest["kind"] == "Secret":
        for section in ("data", "stringData"):
            for key, value in (manifest.get(section) or {}).items():
                found[(section, key)] = str(value)
    if manifest["kind"] == "ConfigMap":
        for key, value in (manifest.get("data") or {}).items():
            if _SECRET_NAME.search(key):
                found[("data", key)] = str(value)
    for path, entry in _variables(manifest, ()):
        found[path] = entry
    return found


def _variables(
    node: Any, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Environment variables of containers whose names sound secret."""
    if isinstance(node, Mapping):
        name = node.get("name")
        if (
            isinstance(name, str)
            and isinstance(node.get("value"), str)
            and (_SECRET_NAME.search(name))
        ):
            yield (*path, "value"), node["value"]
        for key, value in node.items():
            yield from _variables(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _variables(value, (*path, index))


def _replaced(node: Any, values: Mapping[tuple[str | int, ...], str]) -> Any:
    """A copy with the values at these paths replaced."""
    if node is None or not values:
        return node
    if () in values:
        return values[()]

    def below(key: str | int) -> dict[tuple[str | int, ...], str]:
        return {path[1:]: value for path, value in values.items() if path and path[0] == key}

    if isinstance(node, Mapping):
        return {key: _replaced(value, below(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, below(index)) for index, value in enumerate(node)]
    return node


def _lines(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return []
    return yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=1000).splitlines()
