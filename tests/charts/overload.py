"""More requests than a model server can answer, and what its circuit breaker makes of them."""

from __future__ import annotations

import base64
import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests import programs
from tests.charts.scratch import GATEWAY, HOST, Scratch

ROWS = 32
# 32 rows of 64 pixels, every other value of a pixel's range.
BODY = {
    "inputs": [
        {
            "name": "pixels",
            "datatype": "FP32",
            "shape": [ROWS, 64],
            "data": [float(index % 17) for index in range(ROWS * 64)],
        }
    ]
}
# A pod whose capacity is a small part of the machine's, so that load and Envoy have the rest.
LIMITS = {
    "requests": {"cpu": "50m", "memory": "128Mi"},
    "limits": {"cpu": "100m", "memory": "768Mi", "ephemeral-storage": "2Gi"},
}
CALLERS = (4, 16, 64)
AT_ONCE = 16
BREAKER = {"maxConnections": AT_ONCE, "maxPendingRequests": AT_ONCE}
# Answers later than this are of no use to anybody.
TIMEOUT = "2s"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a load: counts by status, 200 per second, times in milliseconds.

    ``unexplained`` counts the 503 that did not come from the breaker and the 429 that the model
    server did not tell, ``wrong`` the 200 that answer something else than the others.
    """

    offered_per_second: float
    good_per_second: float
    statuses: dict[int, int]
    served_p99: float
    refused_p99: float
    unexplained: int
    wrong: int


def limited(scratch: Scratch) -> None:
    """Give inference a small part of the machine."""
    scratch.release("inference", resources=LIMITS)
    scratch.wait("inference")


def capacity(folder: Path, seconds: int) -> dict[int, float]:
    """200 per second of so many callers, each asking again at once; to be asked without a breaker.

    A server that batches does more a second the more it is asked at once.
    """
    return {
        callers: _attack(folder, seconds, "-rate=0", f"-max-workers={callers}").good_per_second
        for callers in CALLERS
    }


def overload(folder: Path, rate: int, seconds: int) -> Outcome:
    """A load that comes at its rate, however slow the answers are."""
    return _attack(folder, seconds, f"-rate={rate}", "-max-workers=2000")


def _attack(folder: Path, seconds: int, *options: str) -> Outcome:
    body = folder / "overload.json"
    body.write_text(json.dumps(BODY), encoding="utf-8")
    target = (
        f"POST {GATEWAY}/v2/models/digits/infer\nHost: {HOST}\n"
        f"Content-Type: application/json\n@{body}\n"
    )
    vegeta = programs.require("vegeta")
    command = [vegeta, "attack", f"-duration={seconds}s", "-timeout=30s", *options]
    raw = subprocess.run(command, input=target.encode(), capture_output=True, check=True).stdout
    encode = [vegeta, "encode", "-to=json"]
    lines = subprocess.run(encode, input=raw, capture_output=True, check=True).stdout
    return _outcome([json.loads(line) for line in lines.splitlines()], seconds)


def _outcome(hits: list[dict[str, Any]], seconds: int) -> Outcome:
    served = [hit for hit in hits if hit["code"] == 200]
    refused = [hit for hit in hits if hit["code"] == 503]
    answers = Counter(json.dumps(_answer(hit)) for hit in served)
    busy = [hit for hit in hits if hit["code"] == 429]
    flagged = sum("true" in hit["headers"].get("X-Envoy-Overloaded", []) for hit in refused)
    told = sum({"Retry-After", "X-Slipway-Variant"} <= hit["headers"].keys() for hit in busy)
    starts = [datetime.fromisoformat(hit["timestamp"]).timestamp() for hit in hits]
    ends = [start + hit["latency"] / 1e9 for start, hit in zip(starts, hits, strict=True)]
    # What is answered late is no gain: the time until the last answer counts.
    lasted = max(ends) - min(starts)
    return Outcome(
        offered_per_second=len(hits) / seconds,
        good_per_second=len(served) / lasted,
        statuses=dict(Counter(hit["code"] for hit in hits)),
        served_p99=_p99(served),
        refused_p99=_p99(refused),
        unexplained=len(refused) - flagged + len(busy) - told,
        wrong=len(served) - max(answers.values(), default=0),
    )


def _answer(hit: dict[str, Any]) -> Any:
    """The labels that were predicted: the same for the same rows, whatever the batch."""
    outputs = json.loads(base64.b64decode(hit["body"]))["outputs"]
    return [output["data"] for output in outputs if output["datatype"] != "FP32"]


def _p99(hits: list[dict[str, Any]]) -> float:
    times = sorted(hit["latency"] / 1e6 for hit in hits)
    return round(times[int(0.99 * (len(times) - 1))], 1) if times else 0.0
