"""Jobs that run what no pod runs: how they are made, and what their runs say. Pure."""

from __future__ import annotations

import hashlib
import json

from release.cluster.client import Object
from release.diagnosis.causes import Cause, short

INSTANCE = "app.kubernetes.io/instance"


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


def job_cause(job: Object) -> Cause:
    """Why a Job has failed."""
    condition = next(c for c in job["status"]["conditions"] if c["type"] == "Failed")
    text = (
        f"{job['metadata']['name']}: {condition.get('reason', '')} {condition.get('message', '')}"
    )
    return Cause("job", short(text), final=True)


def is_run_of(job: Object, cronjob: Object, digest: str) -> bool:
    """Whether a Job is a run of a CronJob as it is now, with this image.

    Runs of older images or configurations prove nothing, neither way.
    """
    if cronjob["metadata"]["name"] not in owners(job):
        return False
    if _pod_template(job["spec"]) != _pod_template(cronjob["spec"]["jobTemplate"]["spec"]):
        return False
    containers = job["spec"]["template"]["spec"]["containers"]
    return bool(digest) and any(digest_of(c["image"]) == digest for c in containers)


def _pod_template(spec: Object) -> tuple[Object, Object]:
    """What a Job's pods are made of, without its labels, to which Kubernetes adds its own."""
    template = spec["template"]
    annotations: Object = template.get("metadata", {}).get("annotations") or {}
    return annotations, template["spec"]


def owners(item: Object) -> set[str]:
    """Names of what an object belongs to."""
    return {owner["name"] for owner in item["metadata"].get("ownerReferences", [])}


def is_done(job: Object, kind: str) -> bool:
    """Whether a Job has ended so: ``Complete`` or ``Failed``."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def digest_of(reference: str) -> str:
    """The digest of an image reference; "" where it names none."""
    return reference.rpartition("@")[2] if "@" in reference else ""
