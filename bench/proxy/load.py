"""The load: wrk in a closed loop, vegeta in an open one, both on the core the server is not on."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from bench.proxy import programs
from bench.proxy.servers import KEY, OTHER_CORE, PATH, Server

CONNECTIONS = 32


@dataclass
class Rounds:
    """What the rounds of one server with one body gave; times in milliseconds."""

    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    bad: int = 0

    def row(self) -> dict[str, float]:
        """Medians, and the spread of the rate."""
        return {
            "requests_per_second": round(statistics.median(self.rate)),
            "lowest": round(min(self.rate)),
            "highest": round(max(self.rate)),
            "p50_ms": round(statistics.median(self.p50), 2),
            "p99_ms": round(statistics.median(self.p99), 2),
            "cpu_seconds_per_1000": round(statistics.median(self.cpu), 4),
            "memory_mib": round(statistics.median(self.memory)),
            "non_2xx": self.bad,
        }


def body_of(size: int) -> str:
    """An infer request of about ``size`` bytes."""
    count = (size - 80) // 4
    tensor = {"name": "x", "datatype": "FP32", "shape": [count, 1], "data": [0.5] * count}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":"))


def script(folder: Path, body: str) -> Path:
    """What wrk sends, and how it tells what came of it."""
    path = folder / f"post-{len(body)}.lua"
    path.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = [[{body}]]\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {KEY}"\n'
        "done = function(summary, latency, requests)\n"
        "  io.write(string.format('RESULT %d %d %d %d %d\\n', summary.requests,"
        " summary.duration, latency:percentile(50), latency:percentile(99),"
        " summary.errors.status + summary.errors.connect + summary.errors.read"
        " + summary.errors.timeout))\n"
        "end\n"
    )
    return path


def closed(server: Server, lua: Path, seconds: float, found: Rounds) -> None:
    """One round of as many requests as the server takes from ``CONNECTIONS`` at once."""
    before = server.cpu_seconds()
    done = subprocess.run(
        ["taskset", "-c", OTHER_CORE, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s",
         "-s", str(lua), server.url + PATH],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    used = server.cpu_seconds() - before
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    assert match is not None, done.stdout
    requests, micros, p50, p99, bad = (int(part) for part in match.groups())
    found.rate.append(requests / (micros / 1e6))
    found.p50.append(p50 / 1000)
    found.p99.append(p99 / 1000)
    found.cpu.append(used / max(1, requests) * 1000)
    found.memory.append(server.memory_mib())
    found.bad += bad


@dataclass
class Steady:
    """What rounds at a steady rate gave; times in milliseconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)
    bad: int = 0


def open_loop(url: str, body: str, rate: int, to: Steady, *, seconds: float, folder: Path) -> None:
    """One round at ``rate`` a second, whatever the server makes of it."""
    payload = folder / "body.json"
    payload.write_text(body)
    target = (
        f"POST {url}{PATH}\nContent-Type: application/json\n"
        f"Authorization: Bearer {KEY}\n@{payload}\n"
    )
    vegeta = programs.vegeta()
    attack = subprocess.run(
        ["taskset", "-c", OTHER_CORE, vegeta, "attack", f"-rate={rate}", f"-duration={seconds:g}s",
         f"-workers={CONNECTIONS}", "-max-workers=2000", "-max-connections=2000"],
        input=target.encode(), capture_output=True, check=True,
    )  # fmt: skip
    said = subprocess.run(
        [vegeta, "report", "-type=json"], input=attack.stdout, capture_output=True, check=True
    )
    report = json.loads(said.stdout)
    to.p50.append(report["latencies"]["50th"] / 1e6)
    to.p99.append(report["latencies"]["99th"] / 1e6)
    to.reached.append(report["throughput"])
    to.bad += round(report["requests"] * (1 - report["success"]))


def added(
    through: Server, direct: Server, body: str, rate: int, folder: Path,
    *, rounds: int, seconds: float,
) -> dict[str, float]:  # fmt: skip
    """Milliseconds the way through a server adds at a steady rate, over interleaved rounds."""
    found = {"through": Steady(), "direct": Steady()}
    for number in range(rounds):
        pair = [("through", through), ("direct", direct)]
        for name, server in reversed(pair) if number % 2 else pair:
            open_loop(server.url, body, rate, found[name], seconds=seconds, folder=folder)
    row: dict[str, float] = {"rate": rate}
    for name, steady in found.items():
        row[f"{name}_p50_ms"] = round(statistics.median(steady.p50), 3)
        row[f"{name}_p99_ms"] = round(statistics.median(steady.p99), 3)
        row[f"{name}_reached"] = round(statistics.median(steady.reached))
    row["added_p50_ms"] = round(row["through_p50_ms"] - row["direct_p50_ms"], 3)
    row["added_p99_ms"] = round(row["through_p99_ms"] - row["direct_p99_ms"], 3)
    row["non_2xx"] = found["through"].bad + found["direct"].bad
    return row
