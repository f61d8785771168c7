"""What passing a request through costs: ours and its peers, the same body to the same upstream.

    uv run python -m bench.proxy                       all, five rounds of three seconds
    uv run python -m bench.proxy --rounds 1 --seconds 1 --only ours,nginx
    LITELLM=/path/to/venv/bin/litellm uv run python -m bench.proxy

The server under test has core 0, upstream and load generator (wrk) share core 1; the rounds of
the servers are interleaved. Figures are medians; CPU and memory are the server's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.proxy import jobs
from bench.proxy.servers import (
    ANSWER,
    KEY,
    METADATA,
    OTHER_CORE,
    PATH,
    SERVER_CORE,
    Server,
    envoy_config,
    free_port,
    nginx_config,
    ours_environment,
    program,
    started,
)

RESULTS = Path(__file__).parents[1] / "results"
SIZES = {"1 KB": 1_000, "100 KB": 100_000}
CONNECTIONS = 32


@dataclass
class Rounds:
    """What the rounds of one server with one body gave."""

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


def script(folder: Path, size: int) -> Path:
    """What wrk sends, and how it tells what came of it."""
    path = folder / f"post-{size}.lua"
    path.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = [[{body_of(size)}]]\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["X-API-Key"] = "{KEY}"\n'
        "done = function(summary, latency, requests)\n"
        "  io.write(string.format('RESULT %d %d %d %d %d\\n', summary.requests,"
        " summary.duration, latency:percentile(50), latency:percentile(99),"
        " summary.errors.status + summary.errors.connect + summary.errors.read"
        " + summary.errors.timeout))\n"
        "end\n"
    )
    return path


def load(
    server: Server, lua: Path, seconds: float, found: Rounds, connections: int = CONNECTIONS
) -> None:
    """One round."""
    before = server.cpu_seconds()
    done = subprocess.run(
        ["taskset", "-c", OTHER_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s",
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


def half_load(server: Server, direct: Server, rate: int, folder: Path) -> dict[str, float]:
    """Milliseconds added at half the server's own peak: vegeta at a steady rate, both ways."""
    vegeta = shutil.which("vegeta") or str(Path.home() / ".cache/slipway/bin/vegeta")
    body = folder / "body.json"
    body.write_text(body_of(1000))
    found: dict[str, dict[str, float]] = {}
    for name, url in (("through", server.url), ("direct", direct.url)):
        target = f"POST {url}{PATH}\nContent-Type: application/json\nX-API-Key: {KEY}\n@{body}\n"
        attack = subprocess.run(
            ["taskset", "-c", OTHER_CORE, vegeta, "attack", f"-rate={max(1, rate)}",
             "-duration=4s", "-connections=32", "-max-workers=64"],
            input=target.encode(), capture_output=True, check=True,
        )  # fmt: skip
        report = subprocess.run(
            [vegeta, "report", "-type=json"], input=attack.stdout, capture_output=True, check=True
        )
        latencies = json.loads(report.stdout)["latencies"]
        found[name] = {key: latencies[key] / 1e6 for key in ("50th", "99th")}
    return {
        "rate": rate,
        "added_p50_ms": round(found["through"]["50th"] - found["direct"]["50th"], 3),
        "added_p99_ms": round(found["through"]["99th"] - found["direct"]["99th"], 3),
    }


def servers(
    stack: contextlib.ExitStack, folder: Path, wanted: set[str]
) -> tuple[dict[str, Server], int]:
    """Start the upstream, Redis, and every server that is wanted and there."""
    upstream_port, redis_port = free_port(), free_port()
    upstream_url = f"http://127.0.0.1:{upstream_port}"
    location = (
        "location = /v2/models/digits "
        f"{{ default_type application/json; return 200 '{METADATA}'; }}"
        f"location / {{ default_type application/json; return 200 '{ANSWER}'; }}"
    )
    config = nginx_config(folder / "upstream", upstream_port, location)
    stack.enter_context(
        started("upstream", upstream_port, ["nginx", "-c", str(config), "-p", str(folder)],
                core=OTHER_CORE, log=folder / "upstream.log")
    )  # fmt: skip
    stack.enter_context(
        started("redis", redis_port,
                ["redis-server", "--port", str(redis_port), "--save", "", "--bind", "127.0.0.1",
                 "--dir", str(folder)],
                core=OTHER_CORE, log=folder / "redis.log")
    )  # fmt: skip
    found = {"direct": Server("direct", upstream_url, None)}

    def add(name: str, words: list[str], port: int, **env: str) -> None:
        if wanted and name not in wanted:
            return
        print(f"starting {name} …", flush=True)
        try:
            found[name] = stack.enter_context(
                started(name, port, words, core=SERVER_CORE, log=folder / f"{name}.log", **env)
            )
        except (RuntimeError, OSError) as error:
            print(f"  left out: {error}", flush=True)

    port = free_port()
    pool = f"upstream up {{ server 127.0.0.1:{upstream_port}; keepalive 256; }}"
    through = (
        "location / { proxy_pass http://up; proxy_http_version 1.1; "
        'proxy_set_header Connection ""; }'
    )
    config = nginx_config(folder / "nginx", port, through, pool)
    add("nginx", ["nginx", "-c", str(config), "-p", str(folder / "nginx")], port)
    port = free_port()
    config = envoy_config(folder / "envoy", port, upstream_port)
    envoy = ["-c", str(config), "--concurrency", "1", "--log-level", "error"]
    add("envoy", [program("envoy"), *envoy, "--disable-hot-restart"], port)
    for name, cache in (("ours", False), ("ours (cache hit)", True)):
        port = free_port()
        env = ours_environment(port, upstream_url, redis_port, cache=cache)
        add(name, [program("proxy"), "serve"], port, **env)
    for name in ("fastapi_aiohttp", "fastapi_httpx"):
        port = free_port()
        words = [program("uvicorn"), f"bench.proxy.peers.{name}:app", "--port", str(port)]
        words += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        add(
            name.replace("_", " + "),
            [*words, "--log-level", "warning"],
            port,
            UPSTREAM=upstream_url,
        )
    litellm = os.environ.get("LITELLM") or shutil.which("litellm")
    if litellm:
        port = free_port()
        config = folder / "litellm.yaml"
        passing = [{"path": PATH, "target": upstream_url + PATH, "headers": {}}]
        config.write_text(json.dumps({"general_settings": {"pass_through_endpoints": passing}}))
        add("litellm", [litellm, "--config", str(config), "--port", str(port)], port,
            LITELLM_LOG="ERROR", LITELLM_MASTER_KEY=f"sk-{KEY}")  # fmt: skip
    return found, redis_port


def markdown(results: dict[str, object]) -> str:
    """The stored tables."""
    lines = ["# Proxy", "", str(results["about"]), ""]
    tables = results["pass_through"]
    assert isinstance(tables, dict)
    for size, rows in tables.items():
        lines += [
            f"## Pass-through, body of {size}, {CONNECTIONS} connections",
            "",
            "| server | requests/s | lowest to highest | p50 ms | p99 ms | CPU s per 1,000 "
            "| MiB | not 2xx |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, row in rows.items():
            lines.append(
                f"| {name} | {row['requests_per_second']:,} | {row['lowest']:,} to "
                f"{row['highest']:,} | {row['p50_ms']} | {row['p99_ms']} | "
                f"{row['cpu_seconds_per_1000']} | {row['memory_mib']} | {row['non_2xx']} |"
            )
        lines.append("")
    for title, key in (
        ("Added at half of the server's own peak", "half_load"),
        ("Jobs", "jobs"),
        ("Goals", "goals"),
    ):
        if results.get(key):
            lines += [f"## {title}", "", "```json", json.dumps(results[key], indent=2), "```", ""]
    return "\n".join(lines)


def goals(tables: dict[str, dict[str, dict[str, float]]]) -> dict[str, str]:
    """The figures beside the goals, from the 1 KB table, by rate and by CPU."""
    rows = tables["1 KB"]
    found: dict[str, str] = {}

    def ratio(peer: str, goal: str, one: str = "ours") -> None:
        if peer in rows and one in rows:
            rate = rows[one]["requests_per_second"] / rows[peer]["requests_per_second"]
            ours, theirs = rows[one]["cpu_seconds_per_1000"], rows[peer]["cpu_seconds_per_1000"]
            cpu = f", {theirs / ours:.2f} by CPU" if ours and theirs else ""
            found[f"{one} / {peer}"] = f"{rate:.2f} by requests/s{cpu} (goal {goal})"

    ratio("fastapi + aiohttp", "2")
    ratio("fastapi + httpx", "20")
    ratio("litellm", "10")
    ratio("nginx", "0.15")
    ratio("ours", "2", "ours (cache hit)")
    return found


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="", help="names, with commas; `jobs` is one of them")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--no-store", action="store_true")
    given = parser.parse_args()
    wanted = {name for name in given.only.split(",") if name}
    began, busy = time.time(), os.getloadavg()[0]
    tables: dict[str, dict[str, dict[str, float]]] = {}
    half: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-proxy-")))
        folder.chmod(0o755)  # nginx's worker is another user
        there, redis_port = servers(stack, folder, wanted)
        for label, size in SIZES.items():
            lua = script(folder, size)
            rounds = {name: Rounds() for name in there}
            for number in range(given.rounds):
                for name, server in there.items():
                    load(server, lua, given.seconds, rounds[name])
                print(f"{label}: round {number + 1} of {given.rounds}", flush=True)
            tables[label] = {name: found.row() for name, found in rounds.items()}
        for name in ("nginx", "envoy", "ours", "fastapi + aiohttp"):
            if name in there:
                rate = int(tables["1 KB"][name]["requests_per_second"] / 2)
                half[name] = half_load(there[name], there["direct"], rate, folder)
        done = None
        if not wanted or "jobs" in wanted:
            done = jobs.measure(there["direct"].url, redis_port, folder, given.jobs)
    load_text = f"{busy:.1f} to {os.getloadavg()[0]:.1f}"
    results: dict[str, object] = {
        "about": f"{given.rounds} interleaved rounds of {given.seconds:g} s, medians; one core for "
        "the server, one for upstream and generator. Ours has API key, scopes, rate limit, "
        "deadlines, metrics and access log on, the others have nothing. Load average of the "
        f"machine during the run {load_text} on {os.cpu_count()} cores: above 2 others were at "
        "work too, and the CPU columns say more than the rates.",
        "seconds": round(time.time() - began),
        "pass_through": tables,
        "half_load": half,
        "jobs": done,
        "goals": goals(tables),
    }
    text = markdown(results)
    print(text)
    if not given.no_store:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "proxy.md").write_text(text)
        (RESULTS / "proxy.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
