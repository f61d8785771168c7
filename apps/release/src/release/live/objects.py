"""Which objects of a release are gone or were changed by hand, asked of the cluster itself.

Argo CD's word is as old as its last comparison: with its controller dead a Service that somebody
deleted, or a policy that somebody changed, stays `Synced` for as long as that lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from release.cluster.client import Cluster, ForbiddenError, Object
from release.cluster.snapshots import Manifests
from release.diagnosis.causes import Cause
from release.errors import NotFoundError

# A Job that has run is removed in time, and no fault.
_PASSING = {"Job"}
OLD_SECONDS = 600
"""Argo CD compares every three minutes by itself, give or take one."""

ARGO_CD = "argocd-controller"
"""As whom Argo CD applies."""
BY_HAND = (
    "kubectl", "oc", "k9s", "lens", "openlens", "node-fetch", "headlamp", "mozilla", "curl", "helm",
)  # fmt: skip
"""Beginnings of the names under which programs that people use write to the API."""
DECIDING = {
    "AuthorizationPolicy", "DestinationRule", "EnvoyFilter", "Gateway", "HTTPRoute", "LimitRange",
    "NetworkPolicy", "PeerAuthentication", "RequestAuthentication", "ResourceQuota",
    "ServiceEntry", "Sidecar", "VirtualService",
}  # fmt: skip
"""Kinds whose objects decide about other objects: one that Git does not have is worth a word."""
# `kubectl rollout restart` changes nothing that Git says.
_HARMLESS = "f:kubectl.kubernetes.io/restartedAt"

Where = tuple[str, str, str]
"""API version, kind, namespace."""


@dataclass(frozen=True)
class Live:
    """What is to be said of a release's objects."""

    gone: Sequence[str] = ()
    """``Service proxy``."""
    changed: Sequence[str] = ()
    """``Service proxy (spec.selector by kubectl-patch at 2026-11-28T10:00:00Z)``."""
    strange: Sequence[str] = ()
    """Objects of deciding kinds that no release has: ``AuthorizationPolicy deny-all``."""


def live(
    cluster: Cluster, applications: Mapping[str, Object], verified: Manifests | None = None
) -> dict[str, Live]:
    """What became of the objects that Argo CD has applied, by release.

    ``verified`` are their manifests of when they were verified. Kinds that this identity may not
    list are left out.
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
        present = dict(zip(kinds, pool.map(lambda one: _named(cluster, one), kinds), strict=True))
    found = {}
    for release, items in wanted.items():
        gone, changed = [], []
        manifests = {
            (item["kind"], item["metadata"]["name"]): item
            for item in (verified or {}).get(release, ())
        }
        for where, name in items:
            named = present[where]
            if named is None:
                continue
            if name not in named:
                gone.append(f"{where[1]} {name}")
                continue
            how = by_hand(named[name])
            if lost := list(taken_out(manifests.get((where[1], name), {}), named[name])):
                how = "; ".join(filter(None, (how, f"without {', '.join(lost[:3])}")))
            if how:
                changed.append(f"{where[1]} {name} ({how})")
        found[release] = Live(gone, changed, _strange(release, wanted, present))
    return found


def _strange(
    release: str,
    wanted: Mapping[str, Sequence[tuple[Where, str]]],
    present: Mapping[Where, Mapping[str, Object] | None],
) -> list[str]:
    """Objects that no release has, of kinds of which this release is the first to have one."""
    known = {one for items in wanted.values() for one in items}
    first: dict[Where, str] = {}
    for name, items in wanted.items():
        for where, _ in items:
            first.setdefault(where, name)
    return [
        f"{where[1]} {name}"
        for where, named in sorted(present.items())
        if where[1] in DECIDING and where[2] and first[where] == release
        for name in sorted(named or ())
        if (where, name) not in known
    ]


def by_hand(item: Object) -> str:
    """What a person's program changed in an object of Argo CD's; "" where nothing.

    A field that Argo CD applied and that another writer changed is that one's from then on, until
    Argo CD applies it again; the API server keeps the account in `managedFields`.
    """
    entries = item["metadata"].get("managedFields") or ()
    applied: set[tuple[str, ...]] = set()
    for entry in entries:
        if entry.get("manager") == ARGO_CD:
            applied |= set(_leaves(entry.get("fieldsV1") or {}))
    if not applied:
        return ""  # made by somebody else, or Argo CD applies as another
    changes = []
    for entry in entries:
        manager = entry.get("manager", "")
        if not manager.lower().startswith(BY_HAND) or entry.get("subresource") == "status":
            continue
        fields = {
            _words(path)
            for path in set(_leaves(entry.get("fieldsV1") or {})) - applied
            if path[0] not in ("f:metadata", "f:status") and _HARMLESS not in path
        }
        if fields:
            shown = ", ".join(sorted(fields - {""})[:3])
            changes.append(f"{shown} by {manager} at {entry.get('time', 'an unknown time')}")
    return "; ".join(changes)


def taken_out(manifest: Object, item: Object, above: str = "") -> Iterator[str]:
    """Fields that Argo CD applied and that an object has no more: nobody owns what is not there."""
    for key, value in manifest.items():
        if not above and key in ("apiVersion", "kind", "metadata"):  # no list repeats the first two
            continue
        path, now = f"{above}{key}", item.get(key)
        if isinstance(value, dict) and isinstance(now, dict):
            yield from taken_out(value, now, f"{path}.")
        elif value and (now is None or (isinstance(value, list) and len(now) < len(value))):
            yield path


def _leaves(fields: Object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths that a set of fields (fieldsV1) has."""
    for key, below in fields.items():
        if key == ".":
            continue
        if set(below) - {"."}:
            yield from _leaves(below, (*above, key))
        else:
            yield (*above, key)


def _words(path: tuple[str, ...]) -> str:
    """``spec.selector`` of ``("f:spec", "f:selector", "f:app")``: what people look for."""
    names = [part.removeprefix("f:") for part in path if part.startswith("f:")]
    return ".".join(names[:4])


def causes(app: Object, seen: Live, now: datetime) -> list[Cause]:
    """What to say of objects that are gone or changed, and of a comparison that is old."""
    status = app.get("status", {})
    compared = status.get("reconciledAt", "")
    age = (now - datetime.fromisoformat(compared)).total_seconds() if compared else None
    ago = f"{int(age)} s ago" if age is not None else "never"
    found = []
    says = status.get("sync", {}).get("status", "Unknown")
    if seen.gone:
        text = f"{', '.join(seen.gone)} not in the cluster; Argo CD says {says}, compared {ago}"
        found.append(Cause("missing", text, final=says == "Synced"))
    if seen.changed:
        text = f"{', '.join(seen.changed)}: not as Git has it; Argo CD says {says}, compared {ago}"
        fix = "let Argo CD apply Git again (does its controller run?), or put the change into Git"
        found.append(Cause("changed by hand", text, final=says == "Synced", fix=fix))
    if seen.strange:
        text = f"{', '.join(seen.strange)} in the namespace, which Git does not have"
        fix = "put it into Git, or delete it; `kubectl get --show-managed-fields` says who made it"
        found.append(Cause("not in Git", text, fix=fix))
    if age is None or age > OLD_SECONDS:
        found.append(
            Cause("old", f"Argo CD has compared this {ago}: does its controller run?", final=False)
        )
    return found


def _where(item: Object) -> Where:
    group, version = item.get("group", ""), item["version"]
    return (f"{group}/{version}" if group else version, item["kind"], item.get("namespace", ""))


def _named(cluster: Cluster, where: Where) -> dict[str, Object] | None:
    """A kind's objects by name; None where they cannot be listed."""
    try:
        path = cluster.path(*where)
        return {item["metadata"]["name"]: item for item in cluster.request("GET", path)["items"]}
    except ForbiddenError:
        return None
    except NotFoundError:
        return {}
