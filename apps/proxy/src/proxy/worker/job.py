"""A job that a worker holds, and what its attempts have in common."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from kit.telemetry.spans import Spans
from kit.telemetry.tracing import TraceContext

LONGEST_BACKOFF = 300.0


@dataclass(slots=True)
class HeldJob:
    """A job that this worker holds."""

    identity: str
    priority: str
    entry: bytes
    model: str
    content_type: str
    payload: bytes
    input_ref: str
    deadline: float
    attempt: int
    request_id: str
    traceparent: str
    created: float
    query: str
    arm: str
    owner: str
    headers: bytes
    uncounted: int  # attempts that were ended from outside and do not count


def held_job(identity: str, priority: str, entry: bytes, fields: list[bytes | None]) -> HeldJob:
    """A job from the fields that the scripts answer, in their order."""

    def text(position: int) -> str:
        return (fields[position] or b"").decode()

    return HeldJob(
        identity=identity,
        priority=priority,
        entry=entry,
        model=text(0),
        content_type=text(1),
        payload=fields[2] or b"",
        input_ref=text(3),
        deadline=float(text(4)),
        attempt=int(text(5)),
        request_id=text(6),
        traceparent=text(7),
        created=float(text(9)),
        query=text(10),
        arm=text(11),
        owner=text(12),
        headers=fields[13] or b"",
        uncounted=int(text(14) or 0),
    )


def backoff(attempt: int, base: float, headers: Mapping[str, str]) -> float:
    """Seconds until the next attempt: doubling, jittered by half, or what Retry-After says."""
    wait: float = min(LONGEST_BACKOFF, base * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
    said = headers.get("retry-after", "")
    return max(wait, min(LONGEST_BACKOFF, float(said))) if said.isdigit() else wait


def record_span(
    spans: Spans,
    job: HeldJob,
    context: TraceContext,
    submitted: TraceContext | None,
    *,
    began: int,
    state: str,
) -> None:
    """An attempt at a job as a span below the request that submitted it."""
    spans.add(
        f"process {job.model}",
        context,
        parent=submitted,
        start_ns=began,
        end_ns=time.time_ns(),
        attributes={
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.message.id": job.identity,
            "slipway.model": job.model,
            "slipway.job.attempt": job.attempt,
            "slipway.job.priority": job.priority,
            "slipway.job.state": state,
            "slipway.request_id": job.request_id,
        },
        kind="consumer",
        error=state if state in ("failed", "retried") else "",
    )
