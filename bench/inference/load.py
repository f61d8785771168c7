"""The load generator: vegeta, closed or open loop, pinned to a CPU of its own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack: latencies in milliseconds, apart for answers and refusals."""

    answered: list[float]
    refused: list[float]
    in_time: int
    """Answers with a 2xx status that came while the attack went on."""
    seconds: float

    @property
    def per_second(self) -> float:
        """Answers per second of the attack: one that comes seconds later does not stretch it."""
        return self.in_time / self.seconds

    def percentile(self, share: float, *, refused: bool = False) -> float:
        """Latency that ``share`` of the answers (or refusals) stay under; 0 for none."""
        values = sorted(self.refused if refused else self.answered)
        return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def find_vegeta() -> str:
    """Its path; SystemExit says how to get it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = shutil.which("vegeta", path=f"{Path(base) / 'slipway' / 'bin'}:{os.environ['PATH']}")
    if found is None:
        raise SystemExit("vegeta is not installed: run `make programs`, or put it on PATH")
    return found


def attack(
    url: str, body: bytes, folder: Path, *, cpu: int, seconds: float, workers: int, rate: float = 0
) -> Outcome:
    """POST ``body`` for ``seconds``: ``workers`` at once, or ``rate`` a second whatever happens."""
    program = find_vegeta()
    target = {
        "method": "POST",
        "url": url,
        "header": {"Content-Type": ["application/json"]},
        "body": base64.b64encode(body).decode(),
    }
    targets = folder / "target.json"
    targets.write_text(json.dumps(target) + "\n")
    limit = ["-max-workers=1500"] if rate else [f"-max-workers={workers}"]
    run = ["taskset", "-c", str(cpu), program]
    shots = subprocess.run(
        [*run, "attack", "-format=json", f"-targets={targets}", f"-duration={seconds}s",
         f"-rate={rate:.0f}/s" if rate else "-rate=0", f"-workers={workers}", *limit,
         "-connections=2000", "-timeout=30s", "-max-body=0"],
        capture_output=True, check=True, env={**os.environ, "GOMAXPROCS": "1"},
    ).stdout  # fmt: skip
    rows = subprocess.run([*run, "encode", "-to=csv"], input=shots, capture_output=True, check=True)
    answered: list[float] = []
    refused: list[float] = []
    ends: list[float] = []
    first = float("inf")
    for line in rows.stdout.decode().splitlines():
        stamp, status, latency = line.split(",", 3)[:3]
        at, took = int(stamp) / 1e9, int(latency) / 1e9
        first = min(first, at)
        good = status.startswith("2")
        (answered if good else refused).append(took * 1000)
        if good:
            ends.append(at + took)
    in_time = sum(end <= first + seconds for end in ends)
    return Outcome(answered, refused, in_time, seconds)


def median(values: list[float]) -> float:
    """The median; 0 for none."""
    return statistics.median(values) if values else 0.0
