"""What passing a request through costs: ours and its peers, the same body to the same upstream.

    make bench-proxy                                   all, five rounds of three seconds
    make bench-proxy ARGS="--rounds 1 --seconds 1 --only ours,nginx"

The server under test has core 0, upstream and load generator share core 1; the rounds of the
servers are interleaved, and the others are frozen meanwhile. Figures are medians; CPU and memory
are the server's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import packages
from bench.proxy import jobs, past, programs
from bench.proxy.load import Rounds, added, body_of, closed, script
from bench.proxy.programs import own
from bench.proxy.report import goals, markdown
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
    run_only,
    started,
)

RESULTS = Path(__file__).parents[1] / "results"
SIZES = {"1 KB": 1_000, "100 KB": 100_000}
# What the generator can drive: past some ten thousand a second its own core is full.
HALF_LOAD = ("ours", "fastapi + aiohttp")


def servers(
    stack: contextlib.ExitStack, folder: Path, wanted: set[str]
) -> tuple[dict[str, Server], int]:
    """Start the upstream, Redis, and every server that is wanted and there.

    Answers them by name, with the port of Redis.
    """
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
    add("envoy", [own("envoy"), *envoy, "--disable-hot-restart"], port)
    for name, cache in (("ours", False), ("ours (cache hit)", True)):
        port = free_port()
        env = ours_environment(port, upstream_url, redis_port, cache=cache)
        add(name, [own("proxy"), "serve"], port, **env)
    for name in ("fastapi_aiohttp", "fastapi_httpx"):
        port = free_port()
        words = [own("uvicorn"), f"bench.proxy.peers.{name}:app", "--port", str(port)]
        words += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        add(
            name.replace("_", " + "),
            [*words, "--log-level", "warning"],
            port,
            UPSTREAM=upstream_url,
        )
    litellm = programs.litellm() if not wanted or "litellm" in wanted else None
    if litellm:
        port = free_port()
        config = folder / "litellm.json"
        passing = [{"path": PATH, "target": upstream_url + PATH, "headers": {}}]
        config.write_text(json.dumps({"general_settings": {"pass_through_endpoints": passing}}))
        # Its price list is bundled: it need not be fetched while the machine is measured.
        add("litellm", [litellm, "--config", str(config), "--port", str(port)], port,
            LITELLM_LOG="ERROR", LITELLM_MASTER_KEY=KEY,
            LITELLM_LOCAL_MODEL_COST_MAP="True")  # fmt: skip
    return found, redis_port


def measure(given: argparse.Namespace, wanted: set[str]) -> dict[str, Any]:
    """Run everything that is wanted."""
    began, busy = time.time(), os.getloadavg()[0]
    tables: dict[str, dict[str, dict[str, float]]] = {}
    half: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-proxy-")))
        folder.chmod(0o755)  # nginx's worker is another user
        there, redis_port = servers(stack, folder, wanted)
        for label, size in SIZES.items():
            lua = script(folder, body_of(size))
            rounds = {name: Rounds() for name in there}
            for server in there.values():
                run_only(server, there.values())
                closed(server, lua, 1, Rounds())  # warm
            for number in range(given.rounds):
                for name, server in there.items():
                    run_only(server, there.values())
                    closed(server, lua, given.seconds, rounds[name])
                print(f"{label}: round {number + 1} of {given.rounds}", flush=True)
            tables[label] = {name: found.row() for name, found in rounds.items()}
        for name in HALF_LOAD:
            if name in there:
                run_only(there[name], there.values())
                rate = max(1, int(tables["1 KB"][name]["requests_per_second"] / 2))
                half[name] = added(
                    there[name], there["direct"], body_of(1000), rate, folder,
                    rounds=given.rounds, seconds=given.seconds,
                )  # fmt: skip
                print(f"{name}: at {rate} a second", flush=True)
        run_only(None, there.values())
        done = beside = None
        if not wanted or "jobs" in wanted:
            done = jobs.measure(
                there["direct"].url, redis_port, folder, given.jobs, min(3, given.rounds)
            )
        if not wanted or "past" in wanted:
            beside = past.measure(folder, redis_port, rounds=given.rounds, seconds=given.seconds)
    load = f"{busy:.1f} to {os.getloadavg()[0]:.1f}"
    results: dict[str, Any] = {
        "about": f"{given.rounds} interleaved rounds of {given.seconds:g} s, medians; one core for "
        "the server, one for upstream and generator. Ours has key, scopes, rate limit, deadlines, "
        "metrics and access log on, LiteLLM its master key, the others have nothing. Load average "
        f"of the machine during the run {load} on {os.cpu_count()} cores: above 3 others were at "
        "work too, and the CPU columns say more than the rates.",
        "seconds": round(time.time() - began),
        "pass_through": tables,
        "half_load": half,
        "past_the_proxy": beside,
        "jobs": done,
    }
    return results | {"goals": goals(results)}


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="", help="names, with commas; also `jobs` and `past`")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--no-store", action="store_true")
    given = parser.parse_args()
    packages.ensure(programs.PACKAGES)
    results = measure(given, {name for name in given.only.split(",") if name})
    text = markdown(results)
    print(text)
    if not given.no_store:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "proxy.md").write_text(text)
        (RESULTS / "proxy.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
