"""A pod that is not ready is explained by what it said itself, with the fix it gave."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from kit.lifecycle import termination
from kit.lifecycle.termination import Reason
from release.cluster.client import Cluster, Observation
from release.diagnosis import container_log, explain
from release.diagnosis.pods import pod_causes
from release.diagnosis.releases import Finding, State, find
from release.values.references import Image

DIGEST = f"sha256:{'a' * 64}"
WANTED = Image("r/inference", "2", DIGEST, "b" * 40)
WRONG_SHA256 = Reason(
    "s3://models/digits/1: model.json has sha256 1111, but 2222 was asked for: refused",
    "write the sha256 of the published model.json into Git with `release model set`",
)
# A log as the services write it: the fault, then what came after it.
LOG = "\n".join(
    json.dumps(entry)
    for entry in (
        {"level": "info", "message": "listening", "port": 8080},
        {"level": "error", "message": "model not loaded", "reason": "an error of long ago"},
        {
            "level": "warning", "message": "not ready", "waiting_for": "models",
            "reason": "there is no model in /nowhere", "fix": "have one fetched (`modelFetch`)",
        },
        {"level": "info", "message": "metrics read"},
    )
)  # fmt: skip


class Logs:
    """The cluster as far as logs go."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.asked: list[tuple[str, str, bool]] = []

    def logs(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> str:
        assert namespace == "dev"
        self.asked.append((pod, container, previous))
        return self.text


def pod(
    *, init: list[dict[str, Any]] | None = None, main: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A pod of a Deployment with an init container, as the API shows it."""
    image = f"r/inference:2@{DIGEST}"
    waits = {"waiting": {"reason": "PodInitializing"}}
    return {
        "metadata": {
            "name": "inference-7c9-x2",
            "labels": {"app.kubernetes.io/instance": "inference", "pod-template-hash": "7c9"},
        },
        "spec": {
            "initContainers": [{"name": "model-fetch", "image": image}],
            "containers": [{"name": "inference", "image": image}],
        },
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "Ready", "status": "False"}],
            "initContainerStatuses": init or [],
            "containerStatuses": [
                main or {"name": "inference", "ready": False, "restartCount": 0, "state": waits}
            ],
        },
    }


def ended(code: int, message: str, *, waiting: str = "", restarts: int = 0) -> dict[str, Any]:
    """The state of a container that ended, in its first moments or while the kubelet waits."""
    past = {"terminated": {"exitCode": code, "reason": "Error", "message": message}}
    if not waiting:
        return {"ready": False, "restartCount": restarts, "state": past, "lastState": {}}
    return {
        "ready": False, "restartCount": restarts, "lastState": past,
        "state": {"waiting": {"reason": waiting, "message": "back-off 10s restarting failed"}},
    }  # fmt: skip


def finding(one: dict[str, Any], events: list[dict[str, Any]] | None = None) -> Finding:
    """The release with this pod beside its Deployment, which makes progress."""
    labels = {"app.kubernetes.io/instance": "inference"}
    container = {"name": "inference", "image": f"r/inference:2@{DIGEST}"}
    deployment: dict[str, Any] = {
        "metadata": {"name": "inference", "generation": 1, "labels": labels},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [container]}}},
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1},
    }
    health = {"sync": {"status": "Synced"}, "health": {"status": "Progressing"}}
    app = {"metadata": {"name": "dev-inference"}, "status": health}
    seen = Observation({"inference": app}, [one], [deployment], events=events or [])
    return find("inference", WANTED, seen)


def explained(found: Finding, logs: Logs) -> Finding:
    return explain.with_reasons(cast(Cluster, logs), "dev", found)


@pytest.mark.parametrize("waiting", ["", "CrashLoopBackOff"])
def test_a_wrong_sha256_fails_after_its_first_end_with_the_fix_it_gave(waiting: str) -> None:
    """Found: known after seconds, told after 183, with "raise --timeout" as the fix."""
    message = termination.message(WRONG_SHA256)
    fetch = {"name": "model-fetch", **ended(2, message, waiting=waiting)}
    logs = Logs()
    found = explained(finding(pod(init=[fetch])), logs)
    assert found.state is State.FAILED
    assert WRONG_SHA256.text in explain.sentence([found])
    assert explain.advice([found]) == WRONG_SHA256.fix
    assert logs.asked == [], "the message has it already"


def test_a_model_that_does_not_load_fails_after_the_servers_first_end() -> None:
    reason = Reason("model 'digits' is not served: version 3: ONNX Runtime cannot load", "publish")
    main = {"name": "inference", **ended(2, termination.message(reason))}
    found = finding(pod(main=main))
    assert (found.state, explain.advice([found])) == (State.FAILED, "publish")


def test_another_programs_exit_code_2_is_not_taken_for_ours() -> None:
    """Go's runtime ends with 2 as well, and may be luckier next time."""
    main = {"name": "inference", **ended(2, "panic: runtime error\n\ngoroutine 1 [running]:")}
    found = finding(pod(main=main))
    assert found.state is State.PROGRESSING
    assert "goroutine 1 [running]:" in explain.sentence([found]) or "panic" in explain.sentence(
        [found]
    )


def test_what_may_pass_is_final_only_when_it_keeps_failing() -> None:
    message = termination.message(Reason("s3://models cannot be read: 403", "give it keys"))
    once = {"name": "model-fetch", **ended(1, message)}
    assert finding(pod(init=[once])).state is State.PROGRESSING
    again = {"name": "model-fetch", **ended(1, message, waiting="CrashLoopBackOff", restarts=2)}
    found = finding(pod(init=[again]))
    assert (found.state, explain.advice([found])) == (State.FAILED, "give it keys")


def test_a_pod_that_waits_is_explained_by_its_log() -> None:
    """Found: "Readiness probe failed: 503", although `/readyz` named what was missing."""
    main = {
        "name": "inference", "ready": False, "started": True, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-11-28T07:00:00Z"}},
    }  # fmt: skip
    event = {
        "involvedObject": {
            "kind": "Pod", "name": "inference-7c9-x2", "fieldPath": "spec.containers{inference}",
        },
        "reason": "Unhealthy", "type": "Warning", "lastTimestamp": "2026-11-28T07:00:09Z",
        "message": "Readiness probe failed: HTTP probe failed with statuscode: 503",
    }  # fmt: skip
    for events in ([event], []):
        logs = Logs(LOG)
        found = explained(finding(pod(main=main), events), logs)
        assert found.state is State.PROGRESSING
        assert "there is no model in /nowhere" in explain.sentence([found])
        assert explain.advice([found]) == "have one fetched (`modelFetch`)"
        assert logs.asked == [("inference-7c9-x2", "inference", False)]


def test_a_container_that_has_just_begun_is_not_blamed() -> None:
    main = {
        "name": "inference", "ready": False, "started": False, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-11-28T07:00:00Z"}},
    }  # fmt: skip
    assert list(pod_causes(pod(main=main), [])) == []


def test_a_foreign_image_is_explained_by_the_end_of_its_log() -> None:
    """`FallbackToLogsOnError`: the kubelet takes the log where nothing was written."""
    tail = "starting\nTraceback (most recent call last):\nValueError: no such error\nbye"
    main = {"name": "inference", **ended(1, tail)}
    found = finding(pod(main=main))
    assert "ValueError: no such error" in explain.sentence([found])
    assert "log" in explain.advice([found])


def test_out_of_memory_and_images_have_fixes_of_their_own() -> None:
    killed = ended(137, "")
    killed["state"]["terminated"]["reason"] = "OOMKilled"
    found = finding(pod(main={"name": "inference", **killed}))
    assert "resources.limits.memory" in explain.advice([found])
    missing = {"reason": "ImagePullBackOff", "message": "not found"}
    main = {"name": "inference", "ready": False, "restartCount": 0, "state": {"waiting": missing}}
    found = finding(pod(main=main))
    assert "release image set" in explain.advice([found])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason("")),
        ("only this", Reason("only this")),
        ("first\nlast", Reason("last")),
        ("an error\nlast", Reason("an error")),
        ('{"level": "info", "message": "no error here"}\nlast', Reason("last")),
        ("[1, 2]", Reason("[1, 2]")),
        (LOG, Reason("there is no model in /nowhere", "have one fetched (`modelFetch`)")),
        (termination.message(WRONG_SHA256), WRONG_SHA256),
    ],
)
def test_the_end_of_a_log_is_read(text: str, reason: Reason) -> None:
    assert container_log.read(text) == reason
