"""What each hop costs, and what many routes cost.

``python -m bench.routing`` needs the cluster that ``make up`` brings up. It makes the namespace
``scratch`` from the charts, sends the same load round by round to each way in, overloads a model
server with and without a circuit breaker, and stores medians in ``bench/results/routing.json`` and
``routing.md``. Nothing here fails on a slow machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests import programs
from tests.charts.overload import BREAKER, LIMITS, TIMEOUT, capacity, limited, overload
from tests.charts.rendering import ROOT, helm
from tests.charts.scratch import DIGIT, GATEWAY, HOST, NAMESPACE, Scratch, kubectl, made

RESULTS = ROOT / "bench/results/routing.json"
PREDICT = "/v2/models/digits/infer"
# Way in -> what it passes.
WAYS = {
    "direct": "the model server's pod without a sidecar, from the node",
    "gateway": "gateway, then a pod without a sidecar",
    "gateway + sidecar": "gateway, mutual TLS, the pod's sidecar, the pod",
    "gateway + proxy": "the same to the proxy, then its sidecar to the model server's",
}


def attack(url: str, host: str, rate: int, seconds: int, folder: Path) -> dict[str, Any]:
    """p50 and p99 in milliseconds, the share of answers 200 and the others, of one round."""
    body = folder / "body.json"
    body.write_text(json.dumps(DIGIT), encoding="utf-8")
    target = f"POST {url}\nHost: {host}\nContent-Type: application/json\n@{body}\n"
    vegeta = programs.require("vegeta")
    results = subprocess.run(
        [vegeta, "attack", f"-rate={rate}", f"-duration={seconds}s", "-timeout=10s"],
        input=target.encode(),
        capture_output=True,
        check=True,
    ).stdout
    report = subprocess.run(
        [vegeta, "report", "-type=json"], input=results, capture_output=True, check=True
    )
    found = json.loads(report.stdout)
    return {
        "p50": found["latencies"]["50th"] / 1e6,
        "p99": found["latencies"]["99th"] / 1e6,
        "success": found["success"],
        "others": {code: n for code, n in found["status_codes"].items() if code != "200"},
    }


def addresses(scratch: Scratch) -> dict[str, tuple[str, str]]:
    """URL and host of each way in; makes what it needs."""
    plain = "inference-challenger"
    scratch.release(plain, sidecar={"inject": False})
    scratch.release("proxy", env={"PROXY_REDIS_URL": ""})
    scratch.wait(plain, "proxy")
    routes = {"proxy": {"paths": ["/"]}, plain: {"sidecar": False}}
    scratch.routes(routes)
    pods = kubectl(
        *("get", "pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={plain}"),
        *("--field-selector", "status.phase=Running", "-o", "json"),
    )
    # The one with a sidecar before it may still be on its way out.
    [pod] = [
        found["status"]["podIP"]
        for found in json.loads(pods)["items"]
        if "deletionTimestamp" not in found["metadata"]
    ]
    return {
        "direct": (f"http://{pod}:8080{PREDICT}", HOST),
        "gateway": (f"{GATEWAY}{PREDICT}", f"plain.{HOST}"),
        "gateway + sidecar": (f"{GATEWAY}{PREDICT}", HOST),
        "gateway + proxy": (f"{GATEWAY}{PREDICT}", f"proxy.{HOST}"),
    }


def separate_hosts(scratch: Scratch) -> None:
    """A host for each way in, beside the scratch namespace's own."""
    for name, service in (("plain", "inference-challenger"), ("proxy", "proxy")):
        gateway = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "selector": {"istio": "ingressgateway"},
                "servers": [
                    {
                        "port": {"number": 80, "name": "http", "protocol": "HTTP"},
                        "hosts": [f"{name}.{HOST}"],
                    }
                ],
            },
        }
        route = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": f"{name}-public", "namespace": NAMESPACE},
            "spec": {
                "hosts": [f"{name}.{HOST}"],
                "gateways": [name],
                "http": [{"route": [{"destination": {"host": service, "port": {"number": 8080}}}]}],
            },
        }
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [gateway, route]})
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=text)


def until_it_answers(way: str, url: str, host: str, folder: Path) -> None:
    """Every Envoy on the way knows its part once a second's requests are all answered."""
    deadline = time.monotonic() + 60
    while attack(url, host, 20, 1, folder)["success"] < 1:
        if time.monotonic() > deadline:
            raise SystemExit(f"{way} does not answer: {url}, Host {host}")


def many_routes(scratch: Scratch, number: int) -> dict[str, float]:
    """Seconds to render a service's rules, of istiod's pushes of them, and its memory then."""
    rules = {
        f"rule-{index}": {"headers": {"x-case": str(index)}, "to": "inference-challenger"}
        for index in range(number)
    }
    before = istiod()
    begin = time.monotonic()
    scratch.routes({"inference": {"rules": rules}})
    applied = time.monotonic() - begin
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
        services = {"a": {"rules": {n: {**r, "to": "a"} for n, r in rules.items()}}}
        values.write(json.dumps({"hosts": [HOST], "services": services}))
        values.flush()
        begin = time.monotonic()
        answer = helm(ROOT / "charts/routing", "routing", NAMESPACE, [Path(values.name)])
        rendered = time.monotonic() - begin
    if answer.returncode:
        raise SystemExit(answer.stderr)
    # The last rule works: every Envoy that has to know it does.
    begin = time.monotonic()
    last = {"x-case": str(number - 1)}
    while scratch.ask(headers=last).variant != "inference-challenger":
        if time.monotonic() - begin > 60:
            raise SystemExit(f"rule {number - 1} did not arrive in 60 s")
    routed = time.monotonic() - begin
    settle()
    after = istiod()
    pushes = max(1.0, after["pushes"] - before["pushes"])
    return {
        "routes": number,
        "render_seconds": round(rendered, 3),
        "apply_seconds": round(applied, 3),
        "until_it_routes_seconds": round(routed, 3),
        "push_mean_seconds": round((after["seconds"] - before["seconds"]) / pushes, 4),
        "istiod_mebibytes": round(after["mebibytes"], 1),
    }


def istiod() -> dict[str, float]:
    """istiod's pushes and their seconds since it started, and its resident memory in MiB."""
    path = "/api/v1/namespaces/istio-system/services/istiod:15014/proxy/metrics"
    text = kubectl("get", "--raw", path)

    def total(name: str) -> float:
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))

    return {
        "pushes": total("pilot_proxy_convergence_time_count"),
        "seconds": total("pilot_proxy_convergence_time_sum"),
        "mebibytes": total("process_resident_memory_bytes") / 2**20,
    }


def overloads(scratch: Scratch, folder: Path, rounds: int, seconds: int) -> list[dict[str, Any]]:
    """200 per second at 2 and 10 times the capacity, by rounds, with and without the breaker.

    The capacity is measured anew in each round, beside what it is compared with.
    """
    limited(scratch)
    rows: list[dict[str, Any]] = []
    for _ in range(rounds):
        scratch.routes({"inference": {"timeout": TIMEOUT}})
        settle()
        able = capacity(folder, seconds)
        rates = {times: max(1, int(times * max(able.values()))) for times in (2, 10)}
        seen = [(False, times, overload(folder, rate, seconds)) for times, rate in rates.items()]
        scratch.routes({"inference": {"circuitBreaking": BREAKER, "timeout": TIMEOUT}})
        settle()
        seen += [(True, times, overload(folder, rate, seconds)) for times, rate in rates.items()]
        # Before and after: so small a share of a CPU is not the same in every window.
        scratch.routes({"inference": {"timeout": TIMEOUT}})
        settle()
        after = capacity(folder, seconds)
        able = {callers: (rate + after[callers]) / 2 for callers, rate in able.items()}
        rows += [
            {
                "breaker": breaker,
                "times": times,
                "capacity": {callers: round(rate, 1) for callers, rate in able.items()},
                "share_of_capacity": round(outcome.good_per_second / max(able.values()), 3),
                **asdict(outcome),
            }
            for breaker, times, outcome in seen
        ]
    scratch.release("inference")
    scratch.wait("inference")
    scratch.routes()
    return rows


def settle() -> None:
    """Until istiod has pushed nothing for a second; 15 seconds where others keep it busy."""
    deadline = time.monotonic() + 15
    before = -1.0
    while (now := istiod()["pushes"]) != before and time.monotonic() < deadline:
        before = now
        time.sleep(1)


def main() -> int:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--routes", type=int, nargs="+", default=[10, 100, 500])
    parser.add_argument("--no-store", action="store_true", help="only print")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, made(with_proxy=True) as scratch:
        folder = Path(name)
        ways = addresses(scratch)
        separate_hosts(scratch)
        for way, (url, host) in ways.items():
            until_it_answers(way, url, host, folder)
        seen: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, (url, host) in ways.items():
                seen[way].append(attack(url, host, options.rate, options.seconds, folder))
        hops = {way: _summary(rounds) for way, rounds in seen.items()}
        scratch.release("inference-challenger")
        scratch.wait("inference-challenger")
        kubectl("delete", "virtualservice", "plain-public", "proxy-public", "-n", NAMESPACE)
        above = overloads(scratch, folder, options.rounds, options.seconds)
        routes = [many_routes(scratch, number) for number in options.routes]
    result = {
        "options": vars(options),
        "load": {"before": load, "after": os.getloadavg()[0]},
        "cores": os.cpu_count(),
        "hops": hops,
        "overload": above,
        "routes": routes,
    }
    text = markdown(result)
    print(text)
    if not options.no_store:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


def markdown(result: dict[str, Any]) -> str:
    """The results as a page."""
    options, load = result["options"], result["load"]
    lines = [
        "# Routing",
        "",
        f"{options['rounds']} interleaved rounds of {options['seconds']} s at {options['rate']} "
        f"requests a second, medians. Load average on {result['cores']} cores: "
        f"{load['before']:.1f} before, {load['after']:.1f} after.",
        "",
        "## What each hop costs",
        "",
        "| way in | p50 ms | lowest to highest | p99 ms | answered 200 | passes |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for way, row in result["hops"].items():
        low, high = row["p50_spread"]
        lines.append(
            f"| {way} | {row['p50']} | {low} to {high} | {row['p99']} | {row['success']:.1%} "
            f"| {WAYS[way]} |"
        )
    lines += [
        "",
        "## A load above the capacity",
        "",
        f"A model server of {LIMITS['limits']['cpu']} CPU; {BREAKER['maxConnections']} connections "
        f"and a queue of {BREAKER['maxPendingRequests']} where there is a breaker, the chart's "
        f"defaults where there is none; timeout {TIMEOUT}. Each row is a round; the capacity is "
        "the best of the callers who each ask again at once, without a breaker.",
        "",
        "| breaker | load | 200/s of so many callers | 200/s | share of capacity | 200 p99 ms "
        "| 503 p99 ms | answers |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in sorted(result["overload"], key=lambda row: (not row["breaker"], row["times"])):
        answers = ", ".join(f"{code}: {n}" for code, n in sorted(row["statuses"].items()))
        lines.append(
            f"| {'yes' if row['breaker'] else 'no'} | {row['times']} times "
            f"| {', '.join(f'{rate} of {n}' for n, rate in row['capacity'].items())} "
            f"| {row['good_per_second']:.1f} | {row['share_of_capacity']:.0%} "
            f"| {row['served_p99']} | {row['refused_p99']} | {answers} |"
        )
    lines += [
        "",
        "## What many routes cost",
        "",
        "| routes | render s | until the last one routes s | istiod's push, mean s | istiod MiB |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['routes']} | {one['render_seconds']} | {one['until_it_routes_seconds']} "
        f"| {one['push_mean_seconds']} | {one['istiod_mebibytes']} |"
        for one in result["routes"]
    ]
    return "\n".join(lines) + "\n"


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "p50": round(statistics.median(one["p50"] for one in rounds), 2),
        "p50_spread": [
            round(min(one["p50"] for one in rounds), 2),
            round(max(one["p50"] for one in rounds), 2),
        ],
        "p99": round(statistics.median(one["p99"] for one in rounds), 2),
        "success": min(one["success"] for one in rounds),
        "others": [one["others"] for one in rounds],
    }


if __name__ == "__main__":
    sys.exit(main())
