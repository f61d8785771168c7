"""A pod: what runs in it, whether Git wants it so, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from release.cluster.client import Cluster, Object
from release.describe.deployed import Known, add_release, row_of
from release.describe.facts import Description, Part
from release.diagnosis import explain
from release.diagnosis.jobs import INSTANCE, digest_of
from release.diagnosis.pods import pod_causes
from release.errors import NotFoundError
from release.values import tree

_OF_THE_MESH = ("istio-proxy", "istio-init", "istio-validation")


def describe(known: Known, name: str, environments: Sequence[str], cluster: Cluster) -> Description:
    """A pod of one of the environments, by its name.

    Raises NotFoundError where there is none; a pod that is gone is only in Git's history.
    """
    for environment in environments:
        try:
            pod = cluster.request("GET", f"/api/v1/namespaces/{environment}/pods/{name}")
        except NotFoundError:
            continue
        found = Description("pod", name)
        add_pod(found, known, environment, pod, cluster)
        return found
    raise NotFoundError(
        f"There is no pod {name!r} in {', '.join(environments)}.",
        fix="`kubectl get pods -A` lists them; of one that is gone Git's history tells: "
        "`release history --env ENV`",
    )


def add_pod(
    found: Description, known: Known, environment: str, pod: Object, cluster: Cluster
) -> None:
    """Parts for a pod, for its containers, and for the release that it is of."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    part = found.part(f"pod {metadata['name']}")
    part.add("namespace", environment)
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())
    )
    part.add("state", f"{status.get('phase', 'Unknown')}, {'ready' if ready else 'not ready'}")
    part.add("since", str(status.get("startTime") or metadata.get("creationTimestamp", "-")))
    part.add("node", spec.get("nodeName") or "none yet")
    part.add("identity", f"ServiceAccount {spec.get('serviceAccountName', 'default')}")
    for owner in metadata.get("ownerReferences", ()):
        part.add("made by", f"{owner['kind']} {owner['name']}")
    release = metadata.get("labels", {}).get(INSTANCE, "")
    _add_containers(found, known, environment, release, pod)
    events = cluster.list(f"/api/v1/namespaces/{environment}/events", fields="type=Warning")
    for short in pod_causes(pod, events):
        cause = explain.with_reason(cluster, environment, short)
        part.add("trouble", f"{cause}" + (f"; fix: {cause.fix}" if cause.fix else ""))
    if not release or row_of(known.at, environment, release) is None:
        found.gaps.append(
            f"no release of {environment} is {release or 'named by its labels'}: Git does not "
            "make this pod"
        )
        return
    wanted = found.part(f"what Git wants of {release} in {environment}")
    found.gaps += add_release(wanted, known, environment, release)
    _add_application(found, known, environment, release, cluster)


def _add_containers(
    found: Description, known: Known, environment: str, release: str, pod: Object
) -> None:
    part = found.part("containers")
    statuses = {
        one["name"]: one
        for key in ("initContainerStatuses", "containerStatuses")
        for one in pod.get("status", {}).get(key, ())
    }
    with_image = release in tree.image_releases(known.at, environment)
    wanted = tree.read_image(known.at, environment, release).digest if with_image else ""
    spec = pod["spec"]
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        status = statuses.get(container["name"], {})
        digest = digest_of(container["image"])
        restarts = status.get("restartCount", 0)
        said = f"{container['image']}, {_state_of(status)}, {restarts} restarts"
        part.add(container["name"], said)
        if container["name"] in _OF_THE_MESH:
            continue
        if not digest:
            found.gaps.append(f"container {container['name']} runs a tag: which bytes is not known")
        elif container["name"] == release and wanted and digest != wanted:
            found.gaps.append(
                f"container {release} runs {digest[:19]}, Git wants {wanted[:19]}: see "
                f"`release describe digest {digest[7:19]}`"
            )


def _state_of(status: Object) -> str:
    for name, about in (status.get("state") or {}).items():
        reason = about.get("reason")
        return f"{name} ({reason})" if reason else str(name)
    return "not started"


def _add_application(
    found: Description, known: Known, environment: str, release: str, cluster: Cluster
) -> None:
    part: Part = found.part("Argo CD")
    app = cluster.applications(environment).get(release)
    if app is None:
        found.gaps.append(f"Argo CD has no Application for {release} in {environment}")
        return
    status = app.get("status", {})
    commit = status.get("sync", {}).get("revision") or ""
    name = app["metadata"]["name"]
    sync = status.get("sync", {}).get("status", "Unknown")
    health = status.get("health", {}).get("status", "Unknown")
    part.add("Application", f"{sync}, {health}", name)
    if commit:
        newest = "the newest" if commit == known.at.commit else "not the newest"
        part.add("applied", f"commit {commit} ({newest} of the branch)", name)
