"""What a verified deployment consists of, kept in the cluster for the day Git is away.

Argo CD applies server-side, so every live object tells which of its fields Argo CD set. Those
fields are the manifests as they were rendered, whichever tool rendered them; `release verify`
keeps them in a Secret beside Argo CD when the verdict is `deployed`.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from release.cluster.client import Cluster, Object
from release.errors import NotFoundError, ReleaseError

MANAGER = "argocd-controller"
"""The field manager that Argo CD's server-side apply goes by."""
KEEP = 10
"""How many deployments of an environment are kept."""
_LABEL = "slipway/deployment-of"
_KEY = "deployment"
_AT_ONCE = 8

Manifests = Mapping[str, Sequence[Object]]
"""Manifests by release."""


@dataclass(frozen=True)
class Snapshot:
    """An environment's manifests at a commit that had the verdict `deployed`."""

    environment: str
    commit: str
    by: str
    manifests: Manifests
    kept: str = ""
    """When, by the API server's clock (ISO 8601, to the second)."""
    version: int = 0
    """The Secret's resourceVersion: of two kept in one second the higher one came later."""

    @property
    def name(self) -> str:
        """The Secret's name: one per environment and commit."""
        return f"release-{self.environment}-{self.commit[:12]}"

    def secret(self, namespace: str) -> Object:
        """The Secret that keeps it; compressed, for a Secret holds one mebibyte."""
        content = {"commit": self.commit, "by": self.by, "manifests": self.manifests}
        packed = gzip.compress(json.dumps(content, sort_keys=True).encode(), mtime=0)
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "slipway/deployment",
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "labels": {_LABEL: self.environment},
            },
            "data": {_KEY: base64.b64encode(packed).decode()},
        }


def read(secret: Object) -> Snapshot:
    """The deployment that a Secret keeps.

    Raises ReleaseError when it is not as `release` wrote it.
    """
    try:
        content = json.loads(gzip.decompress(base64.b64decode(secret["data"][_KEY])))
        return Snapshot(
            secret["metadata"]["labels"][_LABEL],
            content["commit"],
            content["by"],
            content["manifests"],
            secret["metadata"].get("creationTimestamp", ""),
            int(secret["metadata"].get("resourceVersion", 0)),
        )
    except (KeyError, ValueError, OSError, EOFError) as error:
        name = secret.get("metadata", {}).get("name", "?")
        raise ReleaseError(
            f"The Secret {name} keeps no deployment that can be read ({error!r}).",
            fix="delete it; the next `release verify` keeps a new one",
        ) from error


def kept(cluster: Cluster, environment: str) -> list[Snapshot]:
    """An environment's deployments, the newest first; one that cannot be read is no way back."""
    read_back = []
    for secret in cluster.list(_secrets(cluster), selector=f"{_LABEL}={environment}"):
        with contextlib.suppress(ReleaseError):
            read_back.append(read(secret))
    return sorted(read_back, key=lambda one: (one.kept, one.version), reverse=True)


def keep(cluster: Cluster, snapshot: Snapshot, faulty: Iterable[str] = ()) -> None:
    """Store a deployment, and forget the oldest and those that were rolled back from.

    ``faulty`` are commits: whatever they deployed is no place to go back to.
    """
    path = _secrets(cluster)
    cluster.apply(f"{path}/{snapshot.name}", snapshot.secret(cluster.argocd_namespace))
    bad = {commit[:12] for commit in faulty} - {snapshot.commit[:12]}
    others = [one for one in kept(cluster, snapshot.environment) if one.commit != snapshot.commit]
    gone = [one for one in others if one.commit[:12] in bad]
    gone += [one for one in others if one not in gone][KEEP - 1 :]
    for one in gone:
        cluster.delete(f"{path}/{one.name}")


def _secrets(cluster: Cluster) -> str:
    return f"/api/v1/namespaces/{cluster.argocd_namespace}/secrets"


def captured(
    cluster: Cluster, applications: Mapping[str, Object], more: Manifests | None = None
) -> dict[str, list[Object]]:
    """What Argo CD has applied, by release, read from the live objects.

    Looked at are the objects that the Applications list, and those of the manifests in ``more``.
    Objects that are gone, or that Argo CD has not applied server-side, are absent.
    """
    wanted: dict[tuple[str, str, str, str, str], None] = {}
    for release, application in applications.items():
        for resource in application.get("status", {}).get("resources", []):
            version = "/".join(filter(None, (resource.get("group"), resource["version"])))
            place = (resource["kind"], resource.get("namespace", ""), resource["name"])
            wanted[release, version, *place] = None
        for item in (more or {}).get(release, ()):
            _, kind, namespace, name = identity(item)
            wanted[release, item["apiVersion"], kind, namespace, name] = None

    def look(key: tuple[str, str, str, str, str]) -> Object | None:
        _, version, kind, namespace, name = key
        try:
            return cluster.request("GET", f"{cluster.path(version, kind, namespace)}/{name}")
        except NotFoundError:
            return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        live = list(pool.map(look, wanted))
    found: dict[str, list[Object]] = {release: [] for release in applications}
    for (release, *_), seen in zip(wanted, live, strict=True):
        if seen is not None and (manifest := applied(seen)) is not None:
            found[release].append(manifest)
    return found


def applied(live: Object, manager: str = MANAGER) -> Object | None:
    """The manifest that a manager applied; None when it never applied this object."""
    entries = live["metadata"].get("managedFields", [])
    for entry in entries:
        if (entry["manager"], entry["operation"]) != (manager, "Apply"):
            continue
        if entry.get("subresource") or entry["apiVersion"] != live["apiVersion"]:
            continue
        owned = _owned(live, entry["fieldsV1"])
        named = {k: v for k, v in live["metadata"].items() if k in ("name", "namespace")}
        return {
            "apiVersion": live["apiVersion"],
            "kind": live["kind"],
            **owned,
            "metadata": {**named, **owned.get("metadata", {})},
        }
    return None


def same(one: Sequence[Object], other: Sequence[Object]) -> bool:
    """Whether two releases' manifests are the same, in whatever order."""
    return sorted(map(_canonical, one)) == sorted(map(_canonical, other))


def identity(manifest: Object) -> tuple[str, str, str, str]:
    """Group, kind, namespace and name."""
    group = manifest["apiVersion"].rpartition("/")[0]
    metadata = manifest["metadata"]
    return group, manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def _canonical(manifest: Object) -> str:
    return json.dumps(manifest, sort_keys=True)


def _owned(value: Any, fields: Mapping[str, Any]) -> Any:
    """The part of a value that a set of fields (Kubernetes' FieldsV1) names."""
    inner = {key: below for key, below in fields.items() if key != "."}
    if not fields or not isinstance(value, dict | list):
        return value
    if isinstance(value, dict):
        return {
            name: _owned(item, inner[f"f:{name}"])
            for name, item in value.items()
            if f"f:{name}" in inner
        }
    items = []
    for index, item in enumerate(value):
        for key, below in inner.items():
            kind, _, rest = key.partition(":")
            if kind == "k" and _has(item, named := json.loads(rest)):
                # The keys belong to the item even where nothing but its presence is owned.
                part = _owned(item, below)
                items.append(part if len(below) > 1 else {**named, **part})
            elif kind == "v" and item == json.loads(rest):
                items.append(item)
            elif kind == "i" and index == int(rest):
                items.append(_owned(item, below))
    return items


def _has(item: Any, keys: Mapping[str, Any]) -> bool:
    return isinstance(item, dict) and all(item.get(name) == value for name, value in keys.items())
