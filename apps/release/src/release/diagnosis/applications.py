"""What an Application of Argo CD says of its release. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from release.cluster import offline_mark
from release.cluster.client import Object
from release.diagnosis.causes import QUOTA, Cause, short

_SCHEMA = re.compile(r"don't meet the specifications of the schema|values\.schema\.json", re.I)
_RENDER = re.compile(r"helm template|execution error at|parse error at", re.I)
_PASSING = re.compile(
    r"timed? ?out|deadline exceeded|signal: killed|connection refused|unavailable|unable to resolve"
    r"|failed to (?:fetch|list refs)|no such host",
    re.I,
)


def application_causes(app: Object) -> Iterator[Cause]:
    """Why an Application is not as wanted: its mark, its conditions, its last operation."""
    status = app.get("status", {})
    if mark := offline_mark.read(app):
        yield Cause("offline", f"{mark}; `release reconcile` writes it to Git")
    elif app.get("metadata", {}).get("annotations", {}).get(offline_mark.SKIP) == "true":
        yield Cause("skipped", f"an annotation has Argo CD leave it alone ({offline_mark.SKIP})")
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
            kind = "quota" if QUOTA.search(text) else "refused"
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


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
