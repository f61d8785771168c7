"""Which objects of a release are gone, asked of the cluster itself.

Argo CD's word is as old as its last comparison: with its controller dead a Service that somebody
deleted stays `Synced` for as long as that lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from release.causes import Cause
from release.cluster import Cluster, ForbiddenError, Object
from release.errors import NotFoundError

# A Job that has run is removed in time, and no fault.
_PASSING = {"Job"}
OLD_SECONDS = 600
"""Argo CD compares every three minutes by itself, give or take one."""

Where = tuple[str, str, str]
"""API version, kind, namespace."""


def missing(cluster: Cluster, applications: Mapping[str, Object]) -> dict[str, list[str]]:
    """Objects that Argo CD has applied and that are not there, by release: ``Service proxy``.

    Kinds that this identity may not list are left out.
    """
    wanted: dict[str, list[tuple[Where, str]]] = {}
    for release, app in applications.items():
        wanted[release] = [
            (_where(item), item["name"])
            for item in app.get("status", {}).get("resources") or ()
            if item["kind"] not in _PASSING
            and not item.get("hook")
            and not item.get("requiresPruning")
        ]
    kinds = sorted({where for items in wanted.values() for where, _ in items})
    with ThreadPoolExecutor(max(1, len(kinds))) as pool:
        present = dict(zip(kinds, pool.map(lambda one: _names(cluster, one), kinds), strict=True))
    return {
        release: [
            f"{where[1]} {name}"
            for where, name in items
            if (names := present[where]) is not None and name not in names
        ]
        for release, items in wanted.items()
    }


def causes(app: Object, gone: list[str], now: datetime) -> list[Cause]:
    """What to say of objects that are gone, and of a comparison that is old."""
    status = app.get("status", {})
    compared = status.get("reconciledAt", "")
    age = (now - datetime.fromisoformat(compared)).total_seconds() if compared else None
    ago = f"{int(age)} s ago" if age is not None else "never"
    found = []
    if gone:
        says = status.get("sync", {}).get("status", "Unknown")
        text = f"{', '.join(gone)} not in the cluster; Argo CD says {says}, compared {ago}"
        found.append(Cause("missing", text, final=says == "Synced"))
    if age is None or age > OLD_SECONDS:
        found.append(
            Cause("old", f"Argo CD has compared this {ago}: does its controller run?", final=False)
        )
    return found


def _where(item: Object) -> Where:
    group, version = item.get("group", ""), item["version"]
    return (f"{group}/{version}" if group else version, item["kind"], item.get("namespace", ""))


def _names(cluster: Cluster, where: Where) -> set[str] | None:
    """Names of a kind's objects; None where they cannot be listed."""
    try:
        path = cluster.path(*where)
        return {item["metadata"]["name"] for item in cluster.request("GET", path)["items"]}
    except ForbiddenError:
        return None
    except NotFoundError:
        return set()
