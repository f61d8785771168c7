"""From what the cluster shows to what it means: running, under way, or failed and why.

Pure functions over the API's JSON (`cluster.Observation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from release.cluster.client import Object, Observation
from release.diagnosis import drift
from release.diagnosis.applications import application_causes
from release.diagnosis.causes import QUOTA, Cause, short
from release.diagnosis.jobs import INSTANCE, digest_of, is_done, is_run_of, job_cause, owners
from release.diagnosis.pods import pod_causes
from release.values.references import Image

_REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"


class State(Enum):
    """How a release is, from best to worst."""

    DEPLOYED = "deployed"
    ABSENT = "not deployed"
    PROGRESSING = "progressing"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """A release in an environment: what is wanted, what runs, how it is."""

    release: str
    state: State
    wanted: Image
    running: Sequence[str] = ()
    """Digests of the ready pods (of a CronJob: the digest it would start)."""
    sync: str = "-"
    health: str = "-"
    revision: str = ""
    """The Git commit Argo CD synced."""
    ready: int = 0
    pods: int = 0
    causes: Sequence[Cause] = field(default_factory=tuple)
    verified: bool = True
    """False while nothing has run the wanted image: a CronJob's, or one that is scaled to zero."""
    scaled_to_zero: bool = False


def find(release: str, wanted: Image, seen: Observation) -> Finding:
    """How a release is.

    ``wanted`` is what Git says; ``Image()`` for a release without pods of its own (routing,
    environment) or one that is not deployed yet.
    """
    app = seen.applications.get(release)
    if app is None:
        missing = Cause("no Application", f"Argo CD has no Application for {release}", final=False)
        return Finding(release, State.FAILED, wanted, causes=(missing,))
    status = app.get("status", {})
    sync = status.get("sync", {}).get("status", "Unknown")
    health = status.get("health", {}).get("status", "Unknown")
    pods = [pod for pod in seen.pods if _instance(pod) == release]
    cronjob = _named(seen.cronjobs, release)
    runs = [job for job in seen.jobs if cronjob and is_run_of(job, cronjob, wanted.digest)]
    current = _current_pods(release, pods, wanted, seen)
    if cronjob is not None:
        names = {job["metadata"]["name"] for job in runs}
        current = [pod for pod in current if owners(pod) & names]
    ready = [pod for pod in pods if _ready(pod)]
    causes = [*application_causes(app)]
    if wanted.deployed:
        causes += _workload_causes(release, seen)
        if sync == "Synced":
            causes += drift.causes(_named(seen.deployments, release), wanted)
    of_pods = [
        cause for pod in current if wanted.deployed for cause in pod_causes(pod, seen.events)
    ]
    running = sorted({digest for pod in ready if (digest := _digest(pod, release))})
    deployment = _named(seen.deployments, release)
    scaled_to_zero = deployment is not None and deployment["spec"].get("replicas", 1) == 0
    verified = not (scaled_to_zero and wanted.deployed) or any(_ready(pod) for pod in current)
    if cronjob is not None:
        template = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        running = sorted({digest_of(template["containers"][0]["image"])} - {""})
        verified = any(is_done(job, "Complete") for job in runs)
        if verified:
            of_pods = []  # what an earlier or later run's pod looked like no longer matters
        else:
            of_pods += [job_cause(job) for job in runs if is_done(job, "Failed")]
    causes += of_pods
    return Finding(
        release=release,
        # A CronJob's health tells of its last run, which may be one of long ago and another image.
        state=_state(
            wanted,
            sync,
            "Healthy" if cronjob and health != "Missing" else health,
            causes,
            _rolled_out(release, wanted, seen, cronjob),
        ),
        wanted=wanted,
        running=running,
        sync=sync,
        health=health,
        revision=status.get("sync", {}).get("revision", "") or "",
        ready=len(ready),
        pods=max(_running_pods(pods), _wished(deployment)),
        causes=tuple(dict.fromkeys(causes)),
        verified=verified,
        scaled_to_zero=scaled_to_zero,
    )


def _running_pods(pods: Sequence[Object]) -> int:
    return len([pod for pod in pods if pod.get("status", {}).get("phase") != "Succeeded"])


def _wished(deployment: Object | None) -> int:
    """How many pods there should be: those that a quota refused were never made."""
    return int(deployment["spec"].get("replicas", 1)) if deployment is not None else 0


def _state(
    wanted: Image, sync: str, health: str, causes: Sequence[Cause], rolled_out: bool
) -> State:
    if any(cause.final for cause in causes) or health == "Degraded":
        return State.FAILED
    if not rolled_out or health in ("Progressing", "Missing", "Unknown") or sync != "Synced":
        return State.PROGRESSING
    if causes:
        return State.PROGRESSING
    return State.DEPLOYED


def _rolled_out(release: str, wanted: Image, seen: Observation, cronjob: Object | None) -> bool:
    """Whether the workload is what Git wants: every replica new, available and by that digest."""
    if not wanted.deployed:
        return True
    if cronjob is not None:
        return True
    deployment = _named(seen.deployments, release)
    if deployment is None:
        # A Job, or a chart that has not been applied yet: Argo CD's health tells them apart.
        return any(_runs(pod, wanted.digest) for pod in seen.pods if _instance(pod) == release)
    spec, status = deployment["spec"], deployment.get("status", {})
    replicas = spec.get("replicas", 1)
    images = {c["image"] for c in spec["template"]["spec"]["containers"]}
    return (
        any(digest_of(image) == wanted.digest for image in images)
        and status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == replicas
        and status.get("availableReplicas", 0) == replicas
        and status.get("replicas", 0) == replicas
    )


def _current_pods(
    release: str, pods: Sequence[Object], wanted: Image, seen: Observation
) -> list[Object]:
    """The pods of what is wanted; those of an earlier configuration may run the same digest."""
    if not wanted.deployed:
        return []
    deployment = _named(seen.deployments, release)
    found = [pod for pod in pods if _runs(pod, wanted.digest)]
    if deployment is None:
        return found
    metadata = deployment["metadata"]
    if deployment.get("status", {}).get("observedGeneration", 0) < metadata["generation"]:
        return []  # whatever there is was made before
    newest = metadata.get("annotations", {}).get(_REVISION)
    hashes = {
        replicaset["metadata"].get("labels", {}).get(_HASH)
        for replicaset in seen.replicasets
        if _instance(replicaset) == release
        and replicaset["metadata"].get("annotations", {}).get(_REVISION) == newest
    }
    if newest is None or not hashes:
        return found
    # Without a hash it is the pod of a Job that tries the image.
    return [pod for pod in found if pod["metadata"]["labels"].get(_HASH) in {*hashes, None}]


def _workload_causes(release: str, seen: Observation) -> Iterator[Cause]:
    deployment = _named(seen.deployments, release)
    if deployment is None:
        return
    for condition in deployment.get("status", {}).get("conditions", []):
        message = condition.get("message", "")
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            # The old pods' end may make room: the deadline below decides.
            kind = "quota" if QUOTA.search(message) else "refused"
            yield Cause(kind, short(message))
        if condition["type"] == "Progressing" and condition["status"] == "False":
            yield Cause("deadline", short(message), final=True)


def _instance(item: Object) -> str:
    labels: Mapping[str, str] = item["metadata"].get("labels", {})
    return labels.get(INSTANCE, "")


def _named(items: Sequence[Object], name: str) -> Object | None:
    return next((item for item in items if item["metadata"]["name"] == name), None)


def _runs(pod: Object, digest: str) -> bool:
    return any(digest_of(container["image"]) == digest for container in pod["spec"]["containers"])


def _digest(pod: Object, release: str) -> str:
    for container in pod["spec"]["containers"]:
        if container["name"] == release:
            return digest_of(container["image"])
    return digest_of(pod["spec"]["containers"][0]["image"])


def _ready(pod: Object) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions: Sequence[Any] = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
