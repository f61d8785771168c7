"""`status` and `verify` against a real Kubernetes API whose objects the test writes."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from release.cluster.client import Cluster
from release.commands import verdict
from release.diagnosis.jobs import verification_job
from release.errors import UnreachableError
from release.verification.watch import Watch
from tests.programs import require
from tests.release.conftest import RELEASES, Answer, World, digest
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.waits import until

ROOT = Path(__file__).resolve().parents[3]
PODS = "/api/v1/namespaces/dev/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/dev/deployments"
REPLICASETS = "/apis/apps/v1/namespaces/dev/replicasets"
CRONJOBS = "/apis/batch/v1/namespaces/dev/cronjobs"
JOBS = "/apis/batch/v1/namespaces/dev/jobs"
EVENTS = "/api/v1/namespaces/dev/events"


@pytest.fixture
def kube(api: Kubernetes, world: World) -> Kubernetes:
    api.empty()
    world.environment["KUBECONFIG"] = str(api.kubeconfig)
    return api


def labels(release: str) -> dict[str, str]:
    return {"app.kubernetes.io/instance": release, "app.kubernetes.io/part-of": "slipway"}


def image(release: str, seed: str) -> str:
    name = "proxy" if release == "worker" else release
    return f"registry.test/slipway/{name}:{seed}@{digest(name + seed)}"


def application(release: str, revision: str, **status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": f"dev-{release}"},
        "spec": {
            "project": "slipway",
            "source": {"repoURL": "https://example.org/r.git", "path": "charts/service"},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": "dev"},
        },
        "status": {
            "sync": {"status": "Synced", "revision": revision},
            "health": {"status": "Healthy"},
            "reconciledAt": "2026-11-20T12:00:05Z",
            "operationState": {
                "phase": "Succeeded",
                "message": "successfully synced",
                "startedAt": "2026-11-20T12:00:00Z",
                "finishedAt": "2026-11-20T12:00:04Z",
                "operation": {},
            },
            **status,
        },
    }


def pod(
    release: str, seed: str, *, ready: bool = True, name: str = "", **status: Any
) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"name": name or f"{release}-{seed}", "labels": labels(release)},
        "spec": {"containers": [{"name": release, "image": image(release, seed)}]},
        "status": {"phase": "Running", "conditions": [condition], **status},
    }


def container(release: str, **state: Any) -> dict[str, Any]:
    return {
        "name": release,
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {},
        **state,
    }


def deployment(release: str, seed: str, **status: int) -> dict[str, Any]:
    return {
        "metadata": {"name": release, "labels": labels(release)},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels(release)},
            "template": {
                "metadata": {"labels": labels(release)},
                "spec": {"containers": [{"name": release, "image": image(release, seed)}]},
            },
        },
        "status": {
            "observedGeneration": 100,
            "replicas": 1,
            "updatedReplicas": 1,
            "availableReplicas": 1,
            "readyReplicas": 1,
            **status,
        },
    }


def cronjob(seed: str) -> dict[str, Any]:
    template = {
        "metadata": {"labels": labels("unzip")},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "unzip", "image": image("unzip", seed)}],
        },
    }
    return {
        "metadata": {"name": "unzip", "labels": labels("unzip")},
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {
                "metadata": {"labels": labels("unzip")},
                "spec": {"template": template},
            },
        },
    }


def everything_runs(kube: Kubernetes, world: World, seed: str, *names: str) -> None:
    """What the controllers would make of the newest commit."""
    revision = world.head()
    for release in RELEASES:
        kube.put(APPLICATIONS, application(release, revision), subresource=False)
        if release in names and release != "unzip":
            kube.put(DEPLOYMENTS, deployment(release, seed))
            kube.put(PODS, pod(release, seed))


def status(world: World) -> Answer:
    return world.run("status", "--env", "dev", "--json")


def verify(world: World, *more: str, timeout: str = "90") -> Answer:
    return world.run(
        "verify", "--env", "dev", "--timeout", timeout, "--poll", "0.05", "--json", *more
    )


def line(answer: Answer, release: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        entry for entry in answer.json["releases"] if entry["release"] == release
    )
    return found


def causes(answer: Answer, release: str) -> str:
    return " ".join(f"{c['kind']}: {c['text']}" for c in line(answer, release)["causes"])


def test_status_shows_what_is_wanted_and_what_runs(kube: Kubernetes, world: World) -> None:
    revision = world.source()
    world.deploy("1", revision, "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    answer = status(world)
    assert answer.code == 0, answer.out
    proxy = line(answer, "proxy")
    assert proxy["state"] == "deployed"
    assert proxy["running"] == [proxy["wanted"]["digest"]] == [digest("proxy1")]
    assert (proxy["sync"], proxy["health"], proxy["pods"]["ready"]) == ("Synced", "Healthy", 1)
    assert line(answer, "inference")["state"] == "not deployed"
    table = world.run("status", "--env", "dev")
    assert table.code == 0
    row = next(row for row in table.out.splitlines() if " proxy " in row)
    assert {"dev", "deployed", "1/1", revision[:7]} <= set(row.split())


def test_a_digest_that_does_not_exist_names_its_image(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(DEPLOYMENTS, deployment("proxy", "2", replicas=2, updatedReplicas=1))
    waiting = {
        "reason": "ImagePullBackOff",
        "message": f'Back-off pulling image "{image("proxy", "2")}": not found',
    }
    statuses = [container("proxy", state={"waiting": waiting})]
    kube.put(PODS, pod("proxy", "2", ready=False, containerStatuses=statuses))
    answer = status(world)
    assert answer.code == 6
    assert f"ImagePullBackOff of {image('proxy', '2')}" in causes(answer, "proxy")
    assert line(answer, "proxy")["running"] == [digest("proxy1")]  # the old pods serve on
    verdict = verify(world)
    assert verdict.code == 6
    assert f"ImagePullBackOff of {image('proxy', '2')}" in verdict.json["message"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {
                    "terminated": {"exitCode": 137, "reason": "OOMKilled", "containerID": ""}
                },
                "restartCount": 3,
            },
            "OOM: proxy-2/proxy: OOMKilled, exit code 137, 3 restarts",
        ),
        (
            {
                "state": {
                    "waiting": {
                        "reason": "CreateContainerConfigError",
                        "message": 'secret "s3-credentials" not found',
                    }
                }
            },
            'secret "s3-credentials" not found',
        ),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {
                    "terminated": {
                        "exitCode": 3,
                        "reason": "Error",
                        "message": "sha256 differs",
                        "containerID": "",
                    }
                },
                "restartCount": 2,
            },
            "sha256 differs",
        ),
    ],
)
def test_a_container_that_fails_says_why(
    kube: Kubernetes, world: World, given: dict[str, Any], words: str
) -> None:
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "2", "proxy", "worker")
    kube.put(DEPLOYMENTS, deployment("proxy", "2", availableReplicas=0))
    statuses = [container("proxy", **given)]
    kube.put(PODS, pod("proxy", "2", ready=False, containerStatuses=statuses))
    answer = verify(world)
    assert answer.code == 6
    assert words in answer.json["message"]


def test_a_failed_probe_is_named_with_its_last_answer(kube: Kubernetes, world: World) -> None:
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "2", "proxy", "worker")
    kube.put(DEPLOYMENTS, deployment("proxy", "2", availableReplicas=0))
    running = container("proxy", state={"running": {"startedAt": "2026-11-20T12:00:00Z"}})
    kube.put(PODS, pod("proxy", "2", ready=False, containerStatuses=[running]))
    for minute, code in (("01", "500"), ("02", "503")):
        event = {
            "metadata": {"name": f"proxy.{minute}", "namespace": "dev"},
            "involvedObject": {
                "kind": "Pod",
                "namespace": "dev",
                "name": "proxy-2",
                "fieldPath": "spec.containers{proxy}",
            },
            "reason": "Unhealthy",
            "type": "Warning",
            "message": f"Readiness probe failed: HTTP probe failed with statuscode: {code}",
            "lastTimestamp": f"2026-11-20T12:{minute}:00Z",
        }
        kube.put(EVENTS, event, subresource=False)
    answer = verify(world, timeout="0")
    assert answer.code == 7
    assert "statuscode: 503" in answer.json["message"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {
                "conditions": [
                    {
                        "type": "ComparisonError",
                        "message": "Failed to load target state: `helm template` failed: values "
                        "don't meet the specifications of the schema(s): - replcas is not allowed",
                    }
                ]
            },
            "schema: ",
        ),
        (
            {
                "operationState": {
                    "phase": "Failed",
                    "message": "one or more objects failed to apply",
                    "startedAt": "2026-11-20T12:00:00Z",
                    "finishedAt": "2026-11-20T12:00:04Z",
                    "operation": {},
                    "syncResult": {
                        "revision": "",
                        "resources": [
                            {
                                "group": "batch",
                                "version": "v1",
                                "kind": "Job",
                                "namespace": "dev",
                                "name": "migrate",
                                "hookPhase": "Failed",
                                "message": "Job has reached the specified backoff limit",
                            }
                        ],
                    },
                }
            },
            "hook: Job migrate failed: Job has reached",
        ),
        (
            {
                "operationState": {
                    "phase": "Failed",
                    "message": "one or more objects failed to apply",
                    "startedAt": "2026-11-20T12:00:00Z",
                    "finishedAt": "2026-11-20T12:00:04Z",
                    "operation": {},
                    "syncResult": {
                        "revision": "",
                        "resources": [
                            {
                                "group": "",
                                "version": "v1",
                                "kind": "Pod",
                                "namespace": "dev",
                                "name": "x",
                                "status": "SyncFailed",
                                "message": "forbidden: exceeded quota: dev, requested: pods=1",
                            }
                        ],
                    },
                }
            },
            "quota: Pod x: forbidden: exceeded quota",
        ),
    ],
)
def test_what_argo_cd_could_not_apply_is_named(
    kube: Kubernetes, world: World, given: dict[str, Any], words: str
) -> None:
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(APPLICATIONS, application("proxy", world.head(), **given), subresource=False)
    answer = verify(world)
    assert answer.code == 6
    assert words in answer.json["message"]


def test_health_before_the_operation_ended_is_not_trusted(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    stale = application("proxy", world.head(), reconciledAt="2026-11-20T12:00:03Z")
    kube.put(APPLICATIONS, stale, subresource=False)
    early = verify(world, timeout="0")
    assert early.code == 7
    assert "Argo CD has not looked at the cluster since" in early.json["message"]
    kube.put(APPLICATIONS, application("proxy", world.head()), subresource=False)
    assert verify(world).code == 0


def test_a_commit_argo_cd_has_not_reached_is_waited_for(
    kube: Kubernetes, world: World, looks: list[None]
) -> None:
    before = world.head()
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(APPLICATIONS, application("proxy", before), subresource=False)
    answer = verify(world, timeout="0")
    assert answer.code == 7
    assert f"Argo CD is at {before[:12]}" in answer.json["message"]

    def argo_cd() -> None:
        until(lambda: looks, "a look before Argo CD is there")
        kube.put(APPLICATIONS, application("proxy", world.head()), subresource=False)

    later = run_later(argo_cd)
    assert verify(world, timeout="100000").code == 0  # looks, not seconds
    later.join()


def test_argo_cd_that_is_down_is_named(kube: Kubernetes, world: World) -> None:
    before = world.head()
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(APPLICATIONS, application("proxy", before), subresource=False)
    answer = verify(world, timeout="0")  # nobody takes the request to look off
    assert answer.code == 7
    assert "has not looked since it was asked: does it run?" in answer.json["message"]


NOT_RENDERED = (
    "Failed to load target state: failed to generate manifest for source 1 of 1: rpc error: code = "
    "Unknown desc = Manifest generation error: `helm template . --name-template proxy` failed "
)
TRANSIENT = (
    "Failed to load target state: failed to generate manifest for source 1 of 1: rpc error: code = "
    "Unknown desc = failed to list refs: dial tcp 192.0.2.1:9418: connect: connection refused",
    "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
    NOT_RENDERED + "timeout after 1m30s",
    "rpc error: code = Unavailable desc = connection error: dial tcp 198.19.0.9:8081",
)


def not_compared(message: str, before: str, reconciled: str) -> dict[str, Any]:
    """An Application that cannot be compared: Argo CD names no revision then."""
    condition = {"type": "ComparisonError", "message": message}
    app = application("proxy", before, conditions=[condition], reconciledAt=reconciled)
    app["status"]["sync"] = {"status": "Unknown"}
    return app


def looks_again(kube: Kubernetes, message: str, before: str) -> None:
    """Argo CD compares once it is asked to."""
    path = f"{APPLICATIONS}/dev-proxy"

    def asked() -> bool:
        metadata = kube.client.get(path).json()["metadata"]
        return "argocd.argoproj.io/refresh" in metadata.get("annotations", {})

    until(asked, "the request to look again")
    app = not_compared(message, before, "2026-11-20T12:00:09Z")
    kube.put(APPLICATIONS, app, subresource=False)


def test_what_cannot_be_rendered_fails_at_once(kube: Kubernetes, world: World) -> None:
    before = world.head()
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    message = NOT_RENDERED + "execution error at (service/templates/deployment.yaml:3:4): no port"
    kube.put(APPLICATIONS, not_compared(message, before, "2026-11-20T12:00:05Z"), subresource=False)
    thread = run_later(looks_again, kube, message, before)
    answer = verify(world, timeout="60")
    thread.join()
    assert answer.code == 6
    assert "no port" in answer.json["message"]


def test_an_error_of_the_commit_before_is_not_ours(kube: Kubernetes, world: World) -> None:
    before = world.head()
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    message = NOT_RENDERED + "execution error at (service/templates/deployment.yaml:3:4): no port"
    kube.put(APPLICATIONS, not_compared(message, before, "2026-11-20T12:00:05Z"), subresource=False)
    assert verify(world, timeout="0").code == 7  # Argo CD has not looked since


@pytest.mark.parametrize("message", TRANSIENT)
def test_trouble_that_passes_is_waited_out(kube: Kubernetes, world: World, message: str) -> None:
    before = world.head()
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(APPLICATIONS, not_compared(message, before, "2026-11-20T12:00:05Z"), subresource=False)
    thread = run_later(looks_again, kube, message, before)
    answer = verify(world, timeout="0")
    thread.join()
    assert answer.code == 7


def test_a_crash_of_an_earlier_configuration_with_the_same_digest_is_not_ours(
    kube: Kubernetes, world: World
) -> None:
    """Going back from a bad setting, the crashing pods run the very digest that is restored."""
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    numbered = deployment("proxy", "1")
    numbered["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "3"}
    kube.put(DEPLOYMENTS, numbered)
    for number, name in (("2", "bad"), ("3", "good")):
        template = numbered["spec"]["template"]
        hashed = {**labels("proxy"), "pod-template-hash": name}
        kube.put(
            REPLICASETS,
            {
                "metadata": {
                    "name": f"proxy-{name}",
                    "labels": hashed,
                    "annotations": {"deployment.kubernetes.io/revision": number},
                },
                "spec": {
                    "selector": {"matchLabels": hashed},
                    "template": {**template, "metadata": {"labels": hashed}},
                },
            },
            subresource=False,
        )
        crash = {
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "containerID": ""}},
            "restartCount": 5,
        }
        statuses = [container("proxy", **crash)] if name == "bad" else []
        made = pod(
            "proxy", "1", name=f"proxy-{name}", ready=name == "good", containerStatuses=statuses
        )
        made["metadata"]["labels"] = hashed
        kube.put(PODS, made)
    assert verify(world).code == 0


def test_pods_of_another_digest_are_no_deployment(kube: Kubernetes, world: World) -> None:
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")  # healthy, but the old image
    assert verify(world, timeout="0").code == 7


def test_a_newer_deployment_supersedes(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    commit = world.head()
    world.deploy("2", world.source(), "proxy")
    answer = verify(world, "--commit", commit)
    assert answer.code == 3
    assert world.head()[:12] in answer.json["message"]


def test_what_does_not_exist_is_not_found(kube: Kubernetes, world: World) -> None:
    assert verify(world, "--commit", "f" * 40).code == 8
    assert verify(world, "--service", "nope").code == 8
    answer = verify(world, timeout="0")  # no Application at all
    assert answer.code == 8
    assert "dev-proxy" in answer.json["message"]


def finish(kube: Kubernetes, name: str, kind: str = "Complete") -> None:
    """What the Job controller writes at a Job's end."""
    path = f"{JOBS}/{name}"
    until(lambda: kube.client.get(path).status_code == 200, f"the Job {name}")
    job = kube.client.get(path).json()
    now = "2026-11-20T12:00:10Z"
    condition = {"status": "True", "lastTransitionTime": now}
    first = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
    job["status"] = {
        "startTime": now,
        "conditions": [
            {**condition, "type": first, "reason": "BackoffLimitExceeded"},
            {**condition, "type": kind, "reason": "BackoffLimitExceeded", "message": "it failed"},
        ],
        **({"completionTime": now, "succeeded": 1} if kind == "Complete" else {"failed": 1}),
    }
    kube.send("PUT", f"{path}/status", job)


def run_later(function: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def proof(kube: Kubernetes) -> str:
    """The Job that proves the CronJob as it is."""
    return verification_job(kube.client.get(f"{CRONJOBS}/unzip").json())


def test_a_healthy_cronjob_is_run_once_before_it_counts(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "unzip")
    everything_runs(kube, world, "1")
    kube.put(CRONJOBS, cronjob("1"), subresource=False)
    name = proof(kube)
    thread = run_later(finish, kube, name)
    answer = verify(world)
    thread.join()
    assert answer.code == 0, answer.out
    job = kube.client.get(f"{JOBS}/{name}").json()
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == image("unzip", "1")
    assert job["metadata"]["ownerReferences"][0]["name"] == "unzip"
    assert verify(world).code == 0  # proved once is proved


def test_a_cronjob_whose_run_fails_has_failed(kube: Kubernetes, world: World) -> None:
    world.deploy("2", world.source(), "unzip")
    everything_runs(kube, world, "2")
    kube.put(CRONJOBS, cronjob("2"), subresource=False)
    thread = run_later(finish, kube, proof(kube), "Failed")
    answer = verify(world)
    thread.join()
    assert answer.code == 6
    assert "BackoffLimitExceeded" in answer.json["message"]


def test_a_mended_configuration_is_run_again(kube: Kubernetes, world: World) -> None:
    """Found: the failed Job of a bad setting counted against the mended one, by its digest."""
    world.deploy("conf", world.source(), "unzip")
    everything_runs(kube, world, "conf")
    bad = cronjob("conf")
    spec = bad["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    spec["containers"][0]["env"] = [{"name": "UNZIP_BUCKET", "value": "typo"}]
    kube.put(CRONJOBS, bad, subresource=False)
    first = proof(kube)
    thread = run_later(finish, kube, first, "Failed")
    assert verify(world).code == 6
    thread.join()
    # Its pod is still there too.
    terminated = {"exitCode": 1, "reason": "Error", "containerID": ""}
    crashed = pod(
        "unzip", "conf", ready=False, phase="Failed",
        containerStatuses=[container("unzip", state={"terminated": terminated})],
    )  # fmt: skip
    uid = kube.client.get(f"{JOBS}/{first}").json()["metadata"]["uid"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": first, "uid": uid}
    crashed["metadata"]["ownerReferences"] = [owner]
    kube.put(PODS, crashed)
    kube.put(CRONJOBS, cronjob("conf"), subresource=False)
    assert proof(kube) != first
    thread = run_later(finish, kube, proof(kube))
    answer = verify(world)
    thread.join()
    assert answer.code == 0, answer.out


def test_an_old_run_that_failed_is_ignored(kube: Kubernetes, world: World) -> None:
    world.deploy("3", world.source(), "unzip")
    everything_runs(kube, world, "3")
    degraded = application("unzip", world.head(), health={"status": "Degraded"})
    kube.put(APPLICATIONS, degraded, subresource=False)
    kube.put(CRONJOBS, cronjob("3"), subresource=False)
    uid = kube.client.get(f"{CRONJOBS}/unzip").json()["metadata"]["uid"]
    old = {
        "metadata": {
            "name": "unzip-1",
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "CronJob", "name": "unzip", "uid": uid}
            ],
        },
        "spec": cronjob("2")["spec"]["jobTemplate"]["spec"],
    }
    kube.put(JOBS, old, subresource=False)
    finish(kube, "unzip-1", "Failed")
    thread = run_later(finish, kube, proof(kube))
    assert verify(world).code == 0
    thread.join()


def at_zero(kube: Kubernetes, world: World) -> None:
    """What an autoscaler makes of a worker without work."""
    world.push({"values/dev/worker.yaml": "keda: {enabled: true}\n"})
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy")
    counts = ("replicas", "updatedReplicas", "availableReplicas", "readyReplicas")
    idle = deployment("worker", "1", **dict.fromkeys(counts, 0))
    idle["spec"]["replicas"] = 0
    kube.put(DEPLOYMENTS, idle)


def trials(kube: Kubernetes) -> list[dict[str, Any]]:
    """The Jobs that try the worker's image; others' wait for controllers that do not run here."""
    selector = {"labelSelector": "app.kubernetes.io/instance=worker"}
    found: list[dict[str, Any]] = kube.client.get(JOBS, params=selector).json()["items"]
    return found


def tried(kube: Kubernetes, names: list[str], **how: Any) -> None:
    """What the Job controller and the kubelet make of the Job that tries the worker's image."""
    jobs = until(lambda: trials(kube), "a Job that tries the image")
    names.append(jobs[0]["metadata"]["name"])
    template = jobs[0]["spec"]["template"]
    made = pod("worker", "1", name=names[0], **how)
    made["metadata"]["labels"] = template["metadata"]["labels"]
    made["spec"] = template["spec"]
    kube.put(PODS, made)


def test_what_is_scaled_to_zero_is_tried_before_it_counts(kube: Kubernetes, world: World) -> None:
    at_zero(kube, world)
    assert line(status(world), "worker")["proved"] is False
    assert "scaled to zero" in world.run("status", "--env", "dev").out
    names: list[str] = []
    thread = run_later(tried, kube, names)
    answer = verify(world)
    thread.join()
    assert answer.code == 0, answer.out
    assert names[0].startswith("worker-try-")
    assert trials(kube) == []


def test_what_is_scaled_to_zero_and_cannot_start_has_failed(kube: Kubernetes, world: World) -> None:
    at_zero(kube, world)
    names: list[str] = []
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"exitCode": 3, "reason": "Error", "message": "no such module"}}
    crashed = container("worker", state=state, lastState=last, restartCount=2)
    thread = run_later(lambda: tried(kube, names, ready=False, containerStatuses=[crashed]))
    answer = verify(world)
    thread.join()
    assert answer.code == 6
    assert "no such module" in answer.json["message"]
    assert trials(kube) == []


def test_a_trial_that_has_not_ended_is_named(kube: Kubernetes, world: World) -> None:
    """Found: a time-out while a Job tried the image said no more than Synced and Healthy."""
    at_zero(kube, world)
    answer = verify(world, timeout="0")
    assert answer.code == 7
    assert "worker: not verified: applied, and no run of its image" in answer.json["message"]
    assert trials(kube) == []


def test_what_is_scaled_to_zero_need_not_be_tried(kube: Kubernetes, world: World) -> None:
    at_zero(kube, world)
    assert verify(world, "--no-run-cronjobs").code == 0
    assert trials(kube) == []


def test_a_verdict_is_kept_and_opens_the_way_to_promotion(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    assert world.run("promote", "--from", "dev", "--to", "stage", "--no-verify").code == 6
    # Without a verdict in Git the cluster is asked for one.
    assert world.run("promote", "--from", "dev", "--to", "stage").code == 0
    notes = world.git("log", "--notes=verdicts", "--format=%N", "main", cwd=world.remote)
    assert '"verdict": "deployed"' in notes


def test_a_rollback_ends_a_deployment_that_is_stuck(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    stuck = {
        "phase": "Running",
        "message": "waiting for completion of hook",
        "startedAt": "2026-11-20T12:00:00Z",
        "operation": {},
        "syncResult": {"revision": world.head(), "source": {"repoURL": "https://example.org"}},
    }
    app = application("proxy", world.head(), operationState=stuck)
    kube.put(APPLICATIONS, app, subresource=False)

    def argo_cd() -> None:
        """Ends the operation when told to, then syncs the newest commit."""
        path = f"{APPLICATIONS}/dev-proxy"

        def terminating() -> bool:
            state = kube.client.get(path).json()["status"]["operationState"]
            return bool(state["phase"] == "Terminating")

        until(terminating, "the end of the operation")
        everything_runs(kube, world, "1", "proxy", "worker")

    thread = run_later(argo_cd)
    answer = world.run("rollback", "--env", "dev", "--verify", "--timeout", "90")
    thread.join()
    assert answer.code == 0, answer.out + answer.err


def out_of_sync(world: World) -> dict[str, Any]:
    """Argo CD has seen the commit and does nothing: a sync window is closed."""
    app = application("proxy", world.head())
    app["spec"]["syncPolicy"] = {"syncOptions": ["ServerSideApply=true"]}
    app["status"]["sync"]["status"] = "OutOfSync"
    return app


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with each look at the cluster; the clock counts looks, so `--timeout 9` is 9 looks."""
    seen: list[None] = []
    observe = Cluster.observe

    def counted(self: Cluster, *arguments: Any) -> Any:
        found = observe(self, *arguments)
        seen.append(None)
        return found

    monkeypatch.setattr(Cluster, "observe", counted)
    watch = functools.partial(Watch, clock=lambda: float(len(seen)))
    monkeypatch.setattr(verdict, "Watch", watch)
    return seen


def test_a_closed_sync_window_is_named(kube: Kubernetes, world: World, looks: list[None]) -> None:
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(APPLICATIONS, out_of_sync(world), subresource=False)
    answer = verify(world, timeout="9")
    assert answer.code == 7
    assert "sync window" in answer.json["message"]
    assert "operation" not in kube.client.get(f"{APPLICATIONS}/dev-proxy").json()


def test_a_rollback_passes_a_closed_sync_window(
    kube: Kubernetes, world: World, looks: list[None]
) -> None:
    world.deploy("1", world.source(), "proxy")
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(APPLICATIONS, out_of_sync(world), subresource=False)
    asked: list[Any] = []
    before = world.head()

    def sync_asked_for() -> dict[str, Any] | None:
        app: dict[str, Any] = kube.client.get(f"{APPLICATIONS}/dev-proxy").json()
        return app if "operation" in app else None

    def argo_cd() -> None:
        """Knows the new commit at once; applies it when asked to by hand."""
        until(lambda: world.head() != before, "the rollback's commit")
        seen = world.head()
        kube.put(APPLICATIONS, out_of_sync(world), subresource=False)
        for release in set(RELEASES) - {"proxy"}:
            kube.put(APPLICATIONS, application(release, seen), subresource=False)
        app = until(sync_asked_for, "the sync that is asked for by hand")
        asked.append(app["operation"])
        # As Argo CD does: begun, and no word yet of the revision.
        began = {"phase": "Running", "operation": {}, "startedAt": "2026-11-20T12:00:00Z"}
        begun = application("proxy", seen, operationState=began)
        kube.put(APPLICATIONS, begun, subresource=False)
        looked = len(looks)
        until(lambda: len(looks) >= looked + 2, "two more looks")
        state = kube.client.get(f"{APPLICATIONS}/dev-proxy").json()["status"]
        asked.append(state["operationState"]["phase"])
        everything_runs(kube, world, "1", "proxy", "worker")

    thread = run_later(argo_cd)
    answer = world.run("rollback", "--env", "dev", "--verify", "--timeout", "90")
    thread.join()
    assert answer.code == 0, answer.out + answer.err
    operation, phase = asked
    assert phase == "Running"  # it once ended the sync that it had asked for itself
    assert operation["sync"]["prune"] is True
    assert operation["sync"]["syncOptions"] == ["ServerSideApply=true"]
    assert not operation["initiatedBy"].get("automated")


def test_sync_windows_have_a_time_zone_and_let_rollbacks_through() -> None:
    documents = yaml.safe_load_all((ROOT / "argocd/projects/prod.yaml").read_text())
    project = next(d for d in documents if d["kind"] == "AppProject")
    windows = project["spec"]["syncWindows"]
    assert windows
    for window in windows:
        assert window["applications"] == ["prod-*"]
        assert ZoneInfo(window["timeZone"])
        assert (window["kind"], window["manualSync"]) == ("deny", True)
        assert len(window["schedule"].split()) == 5


def test_every_deployment_is_told_of() -> None:
    notifications = yaml.safe_load((ROOT / "argocd/notifications.yaml").read_text())["data"]
    (subscription,) = yaml.safe_load(notifications["subscriptions"])
    key, _, value = subscription["selector"].partition("=")
    for environment in ("dev", "stage", "prod"):
        text = (ROOT / f"argocd/environments/{environment}.yaml").read_text()
        template = yaml.safe_load(text)["spec"]["template"]
        assert template["metadata"]["labels"][key] == value
    for trigger in subscription["triggers"]:
        (condition,) = yaml.safe_load(notifications[f"trigger.{trigger}"])
        assert condition["oncePer"] == "app.status.operationState.syncResult.revision"


def test_a_failed_deployment_is_taken_back_once(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    good = world.file("values/dev/proxy.image.yaml")
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    failed = {
        "phase": "Failed",
        "message": "boom",
        "startedAt": "2026-11-20T12:00:00Z",
        "finishedAt": "2026-11-20T12:00:04Z",
        "operation": {},
    }
    broken = application("proxy", world.head(), operationState=failed)
    kube.put(APPLICATIONS, broken, subresource=False)
    answer = verify(world, "--revert-on-failure")
    assert answer.code == 6
    assert f"reverted by {world.head()}" in answer.json["message"]
    assert world.file("values/dev/proxy.image.yaml") == good
    assert not world.exists("values/dev/hold.yaml")
    head = world.head()
    broken = application("proxy", head, operationState=failed)
    kube.put(APPLICATIONS, broken, subresource=False)
    answer = verify(world, "--revert-on-failure")  # a revert is not reverted
    assert answer.code == 6
    assert "left alone" in answer.json["message"]
    assert world.head() == head


FAILED = {
    "phase": "Failed",
    "message": "boom",
    "startedAt": "2026-11-20T12:00:00Z",
    "finishedAt": "2026-11-20T12:00:04Z",
    "operation": {},
}


def broken(kube: Kubernetes, world: World, *, twice: bool = True) -> None:
    """The newest of two deployments has failed."""
    for seed in ("1", "2") if twice else ("1",):
        world.deploy(seed, world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    failing(kube, world)


def failing(kube: Kubernetes, world: World) -> None:
    app = application("proxy", world.head(), operationState=FAILED)
    kube.put(APPLICATIONS, app, subresource=False)


def test_a_hold_is_respected_by_a_revert(kube: Kubernetes, world: World) -> None:
    """Found: what a person held while looking into it was taken back all the same."""
    broken(kube, world)
    world.run("hold", "--env", "dev", "--reason", "I look into it")
    failing(kube, world)
    head = world.head()
    answer = verify(world, "--revert-on-failure")
    assert answer.code == 6
    assert "It was not reverted: dev is on hold" in answer.json["message"]
    assert world.head() == head


def written(kube: Kubernetes, world: World) -> list[str]:
    """What commands may write to: the API's objects and the remote's refs."""
    lists = (APPLICATIONS, JOBS, "/api/v1/namespaces/argocd/secrets")
    versions = [
        f"{item['metadata']['name']}@{item['metadata']['resourceVersion']}"
        for path in lists
        for item in kube.client.get(path).json()["items"]
    ]
    return [*versions, *world.git("for-each-ref", cwd=world.remote).splitlines()]


def test_a_dry_run_of_verify_only_looks(kube: Kubernetes, world: World) -> None:
    """Found: there was none, and that of a promotion made Jobs, Secrets and notes."""
    for seed in ("dry1", "dry2"):
        world.deploy(seed, world.source(), "proxy", "unzip")
    everything_runs(kube, world, "dry2", "proxy", "worker")
    kube.put(CRONJOBS, cronjob("dry2"), subresource=False)
    before = written(kube, world)
    assert verify(world, "--dry-run").code == 0
    answer = world.run("promote", "--from", "dev", "--to", "stage", "--dry-run", "--json")
    assert answer.code == 0, answer.out + answer.err
    assert {row["release"] for row in answer.json["changes"]} == {"proxy", "worker", "unzip"}
    failing(kube, world)
    before = [entry for entry in before if "dev-proxy" not in entry]
    answer = verify(world, "--dry-run", "--revert-on-failure")
    assert answer.code == 6
    assert f"It would be reverted to what was before {world.head()[:12]}" in answer.json["message"]
    after = [entry for entry in written(kube, world) if "dev-proxy" not in entry]
    assert after == before


def test_one_object_tells_what_was_done_and_what_came_of_it(kube: Kubernetes, world: World) -> None:
    """Found: when the verdict was bad, two JSON objects were printed."""
    broken(kube, world)
    head = world.head()

    def argo_cd() -> None:
        until(lambda: world.head() != head, "the rollback's commit")
        failing(kube, world)

    thread = run_later(argo_cd)
    answer = world.run("rollback", "--env", "dev", "--verify", "--timeout", "90", "--json")
    thread.join()
    assert answer.code == 6
    assert answer.json["commit"] == world.head()
    assert (answer.json["changed"], answer.json["exit_code"]) == (True, 6)
    everything_runs(kube, world, "1", "proxy", "worker")
    answer = world.run("rollback", "--env", "dev", "--verify", "--timeout", "90", "--json")
    assert (answer.code, answer.json["changed"]) == (0, False)


def test_the_log_tells_when_argo_cd_applied_it(kube: Kubernetes, world: World) -> None:
    """Found: the deployment log came out of Git alone."""
    commits = []
    for seed in ("1", "2", "3"):
        world.deploy(seed, world.source(), "proxy")
        commits.append(world.head())
    everything_runs(kube, world, "3", "proxy", "worker")
    for release, seconds in (("proxy", "07"), ("worker", "09")):
        # The sync of the first is forgotten; the second went out with somebody else's commit.
        past = [
            {"id": 8, "revision": commits[1], "deployedAt": f"2026-11-20T12:00:{seconds}Z"},
            {"id": 9, "revision": commits[2], "deployedAt": f"2026-11-20T12:01:{seconds}Z"},
        ]
        app = application(release, commits[2], history=past)
        app["metadata"]["labels"] = {"slipway/environment": "dev", "slipway/release": release}
        kube.put(APPLICATIONS, app, subresource=False)
    answer = world.run("history", "--env", "dev", "--applied", "--json")
    assert answer.code == 0, answer.out
    times = [one["applied_at"] for one in answer.json["deployments"][:3]]
    noon = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp())
    assert times == [noon + 69, noon + 9, None]
    assert "2026-11-20 12:01" in world.run("history", "--env", "dev", "--applied").out
    assert "applied" not in world.run("history", "--env", "dev").out


def test_a_persons_change_is_never_fought(kube: Kubernetes, world: World) -> None:
    world.deploy("1", world.source(), "proxy")
    world.push({"values/dev/proxy.yaml": "replicas: 3\n"}, "Scale by hand")
    everything_runs(kube, world, "1", "proxy", "worker")
    failed = {
        "phase": "Failed",
        "message": "boom",
        "startedAt": "2026-11-20T12:00:00Z",
        "finishedAt": "2026-11-20T12:00:04Z",
        "operation": {},
    }
    kube.put(
        APPLICATIONS,
        application("proxy", world.head(), operationState=failed),
        subresource=False,
    )
    head = world.head()
    answer = verify(world, "--revert-on-failure")
    assert answer.code == 6
    assert "no deployment that `release` made" in answer.json["message"]
    assert world.head() == head


def test_a_cluster_that_is_away_is_named(world: World, tmp_path: Any) -> None:
    away = tmp_path / "away"
    away.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: a, user: {}}]\n"
    )
    answer = world.run("status", "--json", "--kubeconfig", str(away))
    assert answer.code == 9
    assert "127.0.0.1:9" in answer.json["message"]
    answer = world.run("status", "--json", "--kubeconfig", str(tmp_path / "none"))
    assert answer.code == 9


def test_the_kubeconfig_of_now_counts_not_that_of_the_first_import(
    kube: Kubernetes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Commands of one process once went to whichever cluster was named when it began."""
    for name in ("one", "two"):
        config = yaml.safe_load(kube.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{name}.invalid"
        (tmp_path / name).write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / name))
        with pytest.raises(UnreachableError, match=f"{name}.invalid"):
            Cluster().request("GET", "/version")


@pytest.mark.parametrize(
    ("trigger", "health", "fires"),
    [
        ("deployed", "Healthy", True),
        ("deployed", "Progressing", False),
        ("failed", "Degraded", True),
        ("failed", "Healthy", False),
    ],
)
def test_argo_cd_notifies_as_configured(
    kube: Kubernetes, world: World, trigger: str, health: str, fires: bool
) -> None:
    """Argo CD's own program evaluates the triggers and templates of argocd/notifications.yaml."""
    state = {"deployed": "success", "failed": "failure"}[trigger]
    argocd = require("argocd")
    revision = world.head()
    app = application("proxy", revision, health={"status": health})
    app["metadata"]["labels"] = {"slipway/environment": "dev", "slipway/release": "proxy"}
    app["status"]["operationState"]["syncResult"] = {
        "revision": revision,
        "source": app["spec"]["source"],
    }
    kube.put(APPLICATIONS, app, subresource=False)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    secret = world.folder / "secret.yaml"
    tokens = {
        "slack-token": "x",
        "github-app-id": "1",
        "github-installation-id": "2",
        "github-private-key": key.decode(),
    }
    metadata = {"name": "argocd-notifications-secret", "namespace": "argocd"}
    secret.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": metadata,
                    "stringData": tokens})
    )  # fmt: skip

    def admin(*arguments: str) -> str:
        done = subprocess.run(
            [
                argocd, "admin", "notifications", *arguments, "--namespace", "argocd",
                "--kubeconfig", str(kube.kubeconfig), "--secret", str(secret),
                "--config-map", str(ROOT / "argocd/notifications.yaml"),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert admin("trigger", "run", trigger, "dev-proxy").split()[-1] == str(fires).lower()
    text = admin("template", "notify", trigger, "dev-proxy", "--recipient", "console:stdout")
    assert f"state: {state}" in text
    assert f"groupingKey: dev-{revision}" in text
    assert "no value" not in text


def test_the_platform_is_pinned_and_its_project_allows_it() -> None:
    folder = ROOT / "argocd/platform"
    documents = [
        document
        for path in sorted(folder.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]
    project = next(d for d in documents if d["kind"] == "AppProject")["spec"]
    namespaces = {destination["namespace"] for destination in project["destinations"]}
    charts = [d for d in documents if d["kind"] == "Application" and "chart" in d["spec"]["source"]]
    assert {d["spec"]["source"]["chart"] for d in charts} >= {
        "argo-cd", "base", "cni", "istiod", "gateway", "external-secrets", "keda",
        "metrics-server", "kube-prometheus-stack",
    }  # fmt: skip
    for document in charts:
        source = document["spec"]["source"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", source["targetRevision"]), source
        assert source["repoURL"] in project["sourceRepos"]
        assert document["spec"]["destination"]["namespace"] in namespaces
        assert document["spec"]["project"] == project_name(documents)


def project_name(documents: list[dict[str, Any]]) -> str:
    name: str = next(d for d in documents if d["kind"] == "AppProject")["metadata"]["name"]
    return name


def test_an_operation_that_a_stopped_cluster_cut_short_is_no_fault_of_what_runs_now(
    kube: Kubernetes, world: World
) -> None:
    """Found: `make up` failed with the verdict of a commit of an hour before."""
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    old = "0" * 40
    cut = {
        "phase": "Failed",
        "message": "Operation terminated, triggered by controller sync timeout",
        "startedAt": "2026-11-20T11:00:00Z",
        "finishedAt": "2026-11-20T12:00:04Z",
        "operation": {"sync": {"revision": old}},
    }
    kube.put(
        APPLICATIONS, application("proxy", world.head(), operationState=cut), subresource=False
    )
    assert verify(world).code == 0
    cut["operation"] = {"sync": {"revision": world.head()}}
    kube.put(
        APPLICATIONS, application("proxy", world.head(), operationState=cut), subresource=False
    )
    assert verify(world).code == 6


def test_what_failed_before_a_commit_is_applied_does_not_fail_it(
    kube: Kubernetes, world: World
) -> None:
    """Found: a promotion over a broken environment had failed before Argo CD applied it."""
    world.deploy("1", world.source(), "proxy")
    world.deploy("2", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    deadline = {
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        "message": 'ReplicaSet "proxy-1" has timed out progressing.',
    }  # fmt: skip
    old = deployment("proxy", "1")
    old["status"]["conditions"] = [deadline]
    kube.put(DEPLOYMENTS, old)
    resource = {"kind": "Deployment", "name": "proxy", "namespace": "dev", "status": "OutOfSync"}
    behind = {
        "sync": {"status": "OutOfSync", "revision": world.head()},
        "health": {"status": "Degraded"},
    }
    waiting = application("proxy", world.head(), resources=[resource], **behind)
    kube.put(APPLICATIONS, waiting, subresource=False)
    answer = verify(world, "--service", "proxy", timeout="1")
    assert answer.code == 7, answer.out + answer.err
    assert "Argo CD has not applied this" in answer.json["message"]
    # Once it is applied, the same condition is about it.
    applied = application("proxy", world.head(), resources=[resource | {"status": "Synced"}],
                          health={"status": "Degraded"})  # fmt: skip
    kube.put(APPLICATIONS, applied, subresource=False)
    answer = verify(world, "--service", "proxy")
    assert answer.code == 6, answer.out + answer.err
    assert "timed out progressing" in answer.json["message"]
