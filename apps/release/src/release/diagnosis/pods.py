"""What a pod that is not ready says of itself: its conditions, its containers, its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kit.lifecycle import termination
from release.cluster.client import Object
from release.diagnosis import container_log
from release.diagnosis.causes import Cause, short

_FIXES = {
    "unschedulable": "add nodes, or lower `resources.requests` in the release's values",
    "image": "set an image that the registry has: `release image set`",
    "container": "make the Secret or ConfigMap that it names, or take it out of the values",
    "OOM": "raise `resources.limits.memory` in the release's values",
    "crash": "mend what the container's log says",
    "probe": "mend what the container waits for, as its log and `/readyz` say",
}
_PULLS = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}


def pod_causes(pod: Object, events: Sequence[Object]) -> Iterator[Cause]:
    name = pod["metadata"]["name"]
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            text = f"{name}: {short(condition.get('message', ''))}"
            yield Cause("unschedulable", text, fix=_FIXES["unschedulable"])
    specs = {
        container["name"]: container
        for group in ("initContainers", "containers")
        for container in pod["spec"].get(group, [])
    }
    for one in status.get("initContainerStatuses", []):
        # A sidecar among them runs for as long as the pod does, and is started.
        sidecar = specs[one["name"]].get("restartPolicy") == "Always"
        if one.get("state", {}).get("running") is not None and not sidecar:
            text = f"{name}/{one['name']} has not finished"
            yield Cause("starting", text, log=(name, one["name"], False))
    for one in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        yield from _container_causes(name, one, specs[one["name"]]["image"])
        running = one.get("state", {}).get("running") is not None
        if running and not one.get("ready"):
            yield from _not_ready(name, one, events)


def _not_ready(pod: str, status: Object, events: Sequence[Object]) -> Iterator[Cause]:
    """A container that runs and is not ready: the kubelet hides what its probe was answered."""
    answer = _probe_answer(pod, status, events)
    if not answer and status.get("started") is not True:
        return  # it has not had the time
    where = f"{pod}/{status['name']}"
    text = answer or "not ready"
    yield Cause("probe", f"{where}: {text}", log=(pod, status["name"], False), fix=_FIXES["probe"])


def _container_causes(pod: str, status: Object, image: str) -> Iterator[Cause]:
    where = f"{pod}/{status['name']}"
    waiting = status.get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    last = _terminated(status)
    restarts = status.get("restartCount", 0)
    if reason in _PULLS:
        # ErrImagePull may be a hiccup of the registry; the kubelet backs off when it persists.
        text = f"{reason} of {image}" + (f" ({_pull_error(message)})" if message else "")
        yield Cause("image", text, final=reason != "ErrImagePull", fix=_FIXES["image"])
    elif reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        text = f"{where}: {reason}: {short(message)}"
        yield Cause("container", text, final=True, fix=_FIXES["container"])
    elif last is not None and last.get("exitCode", 0) != 0:
        why = last.get("reason", "Error")
        kind = "OOM" if why == "OOMKilled" else "crash"
        ending = container_log.read(last.get("message", ""))
        text = f"{where}: {why}, exit code {last['exitCode']}, {restarts} restarts"
        if ending.text:
            text += f": {short(ending.text)}"
        looping = reason == "CrashLoopBackOff" and restarts >= 2
        # Ours end with this code and a fix where a restart finds the same.
        hopeless = last["exitCode"] == termination.CANNOT_WORK and bool(ending.fix)
        previous = not status.get("state", {}).get("terminated")
        yield Cause(
            kind,
            text,
            final=looping or hopeless,
            log=None if ending.text else (pod, status["name"], previous),
            fix=_FIXES["OOM"] if kind == "OOM" else ending.fix or _FIXES["crash"],
        )


def _terminated(status: Object) -> Object | None:
    """The run that ended badly: the present one, or the last one of a container that waits."""
    state: Object = status.get("state", {})
    if state.get("running"):
        return None
    found: Object | None = state.get("terminated") or status.get("lastState", {}).get("terminated")
    return found


def _probe_answer(pod: str, status: Object, events: Sequence[Object]) -> str:
    """What the kubelet's last failed probe of a container was answered."""
    events_of_pod = [
        event
        for event in events
        if event.get("reason") == "Unhealthy"
        and event.get("involvedObject", {}).get("name") == pod
        and status["name"] in event.get("involvedObject", {}).get("fieldPath", "")
    ]
    events_of_pod.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return short(events_of_pod[-1].get("message", "")) if events_of_pod else ""


def _pull_error(message: str) -> str:
    """The end of the runtime's nested sentence: what the registry said."""
    if "not found" in message:
        return "the registry has no such image"
    return short(message.rpartition("error: ")[2] or message, 160)
