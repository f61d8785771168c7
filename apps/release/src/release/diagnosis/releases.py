"""From what the cluster shows to what it means: running, under way, or failed and why.

Pure functions over the API's JSON (`cluster.Observation`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from release.cluster import offline_mark
from release.cluster.client import Object, Observation
from release.diagnosis import drift
from release.diagnosis.causes import Cause, short
from release.diagnosis.pods import pod_causes
from release.values.references import Image

INSTANCE = "app.kubernetes.io/instance"
_REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"
_SCHEMA = re.compile(r"don't meet the specifications of the schema|values\.schema\.json", re.I)
_RENDER = re.compile(r"helm template|execution error at|parse error at", re.I)
_PASSING = re.compile(
    r"timed? ?out|deadline exceeded|signal: killed|connection refused|unavailable|unable to resolve"
    r"|failed to (?:fetch|list refs)|no such host",
    re.I,
)
_QUOTA = re.compile(r"exceeded quota|must specify limits|maximum .* usage per", re.I)


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
    proved: bool = True
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
    runs = [job for job in seen.jobs if cronjob and _job_runs(job, cronjob, wanted.digest)]
    current = _current_pods(release, pods, wanted, seen)
    if cronjob is not None:
        names = {job["metadata"]["name"] for job in runs}
        current = [pod for pod in current if _owners(pod) & names]
    ready = [pod for pod in pods if _ready(pod)]
    causes = [*_application_causes(app)]
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
    proved = not (scaled_to_zero and wanted.deployed) or any(_ready(pod) for pod in current)
    if cronjob is not None:
        template = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        running = sorted({_reference_digest(template["containers"][0]["image"])} - {""})
        proved = any(_job_done(job, "Complete") for job in runs)
        if proved:
            of_pods = []  # what an earlier or later run's pod looked like no longer matters
        else:
            of_pods += [_job_cause(job) for job in runs if _job_done(job, "Failed")]
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
        proved=proved,
        scaled_to_zero=scaled_to_zero,
    )


def _running_pods(pods: Sequence[Object]) -> int:
    return len([pod for pod in pods if pod.get("status", {}).get("phase") != "Succeeded"])


def _wished(deployment: Object | None) -> int:
    """How many pods there should be: those that a quota refused were never made."""
    return int(deployment["spec"].get("replicas", 1)) if deployment is not None else 0


def reconciled_after_operation(app: Object) -> bool:
    """Whether Argo CD compared the cluster again after its last operation ended.

    Until then the health it shows is that of before the change.
    """
    status = app.get("status", {})
    operation = status.get("operationState")
    if app.get("operation") is not None:
        return False
    if not operation:
        return bool(status.get("reconciledAt"))
    finished, reconciled = operation.get("finishedAt"), status.get("reconciledAt")
    return bool(finished and reconciled) and _time(reconciled) >= _time(finished)


def is_applied(release: str, app: Object) -> bool:
    """Whether the Deployment in the cluster is the one of the commit that Argo CD compares with.

    Until then its conditions and its pods tell of what was there before. True where there is none.
    """
    return not any(
        one.get("kind") == "Deployment"
        and one.get("name") == release
        and one.get("status") == "OutOfSync"
        for one in app.get("status", {}).get("resources", [])
    )


def run_as_job(cronjob: Object, name: str) -> Object:
    """A Job that does once what the CronJob does on schedule (`kubectl create job --from`)."""
    template = cronjob["spec"]["jobTemplate"]
    job = _job(cronjob, "batch/v1", "CronJob", name, template["spec"])
    metadata, of_template = job["metadata"], template.get("metadata", {})
    metadata["labels"] = {**of_template.get("labels", {}), **metadata["labels"]}
    metadata["annotations"] = {
        **of_template.get("annotations", {}),
        "cronjob.kubernetes.io/instantiate": "manual",
    }
    metadata["ownerReferences"][0]["controller"] = True
    return job


def try_as_job(deployment: Object, name: str, seconds: int) -> Object:
    """A Job whose pod is one of a Deployment that has none; it ends by itself after ``seconds``.

    Argo CD and the autoscaler leave it alone, and the Deployment's Service sends it requests.
    """
    template = deployment["spec"]["template"]
    spec = {
        "activeDeadlineSeconds": seconds,
        "ttlSecondsAfterFinished": 60,
        "template": {**template, "spec": {**template["spec"], "restartPolicy": "OnFailure"}},
    }
    return _job(deployment, "apps/v1", "Deployment", name, spec)


def _job(owner: Object, version: str, kind: str, name: str, spec: Object) -> Object:
    """A Job of a workload, which is cleaned up with it and which Argo CD shows below it."""
    metadata = owner["metadata"]
    reference = {
        "apiVersion": version,
        "kind": kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {INSTANCE: metadata["name"]},
            "ownerReferences": [reference],
        },
        "spec": spec,
    }


def verification_job(cronjob: Object) -> str:
    """The name of the Job that proves a CronJob's pods: one per image and configuration, so that
    it runs once, and again when either is mended."""
    text = json.dumps(_pod_template(cronjob["spec"]["jobTemplate"]["spec"]), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{cronjob['metadata']['name'][:40]}-verify-{digest[:10]}"


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
        any(_reference_digest(image) == wanted.digest for image in images)
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


def _application_causes(app: Object) -> Iterator[Cause]:
    status = app.get("status", {})
    if mark := offline_mark.read(app):
        yield Cause("offline", f"{mark}; `release reconcile` writes it to Git")
    elif app.get("metadata", {}).get("annotations", {}).get(offline_mark.SKIP) == "true":
        yield Cause("skipped", f"Argo CD is told to leave it alone ({offline_mark.SKIP})")
    for condition in status.get("conditions", []):
        if condition.get("type", "").endswith("Error"):
            message = condition.get("message", "")
            kind = "schema" if _SCHEMA.search(message) else condition["type"]
            # Any other comparison error may be Argo CD's own trouble, or the network's, and pass.
            broken = kind == "schema" or bool(_RENDER.search(message))
            broken = broken and not _PASSING.search(message)
            yield Cause(kind, short(message), final=broken)
    operation = status.get("operationState", {})
    phase, message = operation.get("phase", ""), operation.get("message", "")
    retrying = phase == "Running" and "retrying" in message.lower()
    if (phase not in ("Failed", "Error") and not retrying) or _is_over(status):
        return
    named = False
    for result in operation.get("syncResult", {}).get("resources", []):
        what = f"{result.get('kind')} {result.get('name')}"
        if result.get("hookPhase") in ("Failed", "Error"):
            named = True
            yield Cause("hook", f"{what} failed: {short(result.get('message', ''))}", not retrying)
        elif result.get("status") == "SyncFailed":
            named = True
            text = result.get("message", "")
            kind = "quota" if _QUOTA.search(text) else "refused"
            yield Cause(kind, f"{what}: {short(text)}", not retrying)
    if not named:
        yield Cause("sync", short(message), final=not retrying)


def _is_over(status: Mapping[str, Any]) -> bool:
    """Whether the last operation was about another commit than the one that is in the cluster now.

    Nothing was left to apply then, so no operation has replaced it: one that a stopped cluster
    cut short is still there as failed.
    """
    sync, operation = status.get("sync", {}), status.get("operationState", {})
    asked = operation.get("operation", {}).get("sync", {}).get("revision", "")
    tried = asked or operation.get("syncResult", {}).get("revision", "")
    return bool(sync.get("status") == "Synced" and tried and tried != sync.get("revision", ""))


def _workload_causes(release: str, seen: Observation) -> Iterator[Cause]:
    deployment = _named(seen.deployments, release)
    if deployment is None:
        return
    for condition in deployment.get("status", {}).get("conditions", []):
        message = condition.get("message", "")
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            # The old pods' end may make room: the deadline below decides.
            kind = "quota" if _QUOTA.search(message) else "refused"
            yield Cause(kind, short(message))
        if condition["type"] == "Progressing" and condition["status"] == "False":
            yield Cause("deadline", short(message), final=True)


def _job_cause(job: Object) -> Cause:
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed")
    text = (
        f"{job['metadata']['name']}: {condition.get('reason', '')} {condition.get('message', '')}"
    )
    return Cause("job", short(text), final=True)


def _job_runs(job: Object, cronjob: Object, digest: str) -> bool:
    """Whether a Job is a run of a CronJob as it is now, with this image.

    Runs of older images or configurations prove nothing, neither way.
    """
    if cronjob["metadata"]["name"] not in _owners(job):
        return False
    if _pod_template(job["spec"]) != _pod_template(cronjob["spec"]["jobTemplate"]["spec"]):
        return False
    containers = job["spec"]["template"]["spec"]["containers"]
    return bool(digest) and any(_reference_digest(c["image"]) == digest for c in containers)


def _pod_template(spec: Object) -> tuple[Object, Object]:
    """What the pods of a Job are made of; its labels aside, to which Kubernetes adds the Job's."""
    template = spec["template"]
    annotations: Object = template.get("metadata", {}).get("annotations") or {}
    return annotations, template["spec"]


def _owners(item: Object) -> set[str]:
    return {owner["name"] for owner in item["metadata"].get("ownerReferences", [])}


def _job_done(job: Object, kind: str) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def _instance(item: Object) -> str:
    labels: Mapping[str, str] = item["metadata"].get("labels", {})
    return labels.get(INSTANCE, "")


def _named(items: Sequence[Object], name: str) -> Object | None:
    return next((item for item in items if item["metadata"]["name"] == name), None)


def _runs(pod: Object, digest: str) -> bool:
    return any(
        _reference_digest(container["image"]) == digest for container in pod["spec"]["containers"]
    )


def _digest(pod: Object, release: str) -> str:
    for container in pod["spec"]["containers"]:
        if container["name"] == release:
            return _reference_digest(container["image"])
    return _reference_digest(pod["spec"]["containers"][0]["image"])


def _reference_digest(reference: str) -> str:
    return reference.rpartition("@")[2] if "@" in reference else ""


def _ready(pod: Object) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions: Sequence[Any] = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
