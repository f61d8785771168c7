"""What each hop costs, and what many routes cost.

``python -m bench.routing`` needs the cluster that ``make up`` brings up. It makes the namespace
``scratch`` from the charts, sends the same load round by round to each way in, and prints and
stores medians. Results: ``bench/results/routing.json``.
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
from pathlib import Path
from typing import Any

from tests import programs
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
    callers: dict[str, dict[str, Any]] = {"gateway": {}, "proxy": {}}
    scratch.routes({"proxy": {"paths": ["/"], "callers": callers}})
    # The challenger has no sidecar here, so nothing there can speak mutual TLS.
    policy = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": plain, "namespace": NAMESPACE},
        "spec": {"host": plain, "trafficPolicy": {"tls": {"mode": "DISABLE"}}},
    }
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    kubectl(*apply, text=json.dumps(policy))
    pod = kubectl(
        *("get", "pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={plain}"),
        *("--field-selector", "status.phase=Running"),
        *("-o", "jsonpath={.items[-1:].status.podIP}"),
    )
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
    """Seconds to render a service's rules, istiod's pushes and its memory with them."""
    rules = {
        f"rule-{index}": {"headers": {"x-case": str(index)}, "to": "inference-challenger"}
        for index in range(number)
    }
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
    return {
        "routes": number,
        "render_seconds": round(rendered, 3),
        "apply_seconds": round(applied, 3),
        "until_it_routes_seconds": round(time.monotonic() - begin, 3),
        **istiod(),
    }


def istiod() -> dict[str, float]:
    """Mean seconds of istiod's pushes so far, and its resident memory in MiB."""
    path = "/api/v1/namespaces/istio-system/services/istiod:15014/proxy/metrics"
    text = kubectl("get", "--raw", path)

    def total(name: str) -> float:
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))

    pushes = total("pilot_proxy_convergence_time_count") or 1
    return {
        "push_mean_seconds": round(total("pilot_proxy_convergence_time_sum") / pushes, 4),
        "istiod_mebibytes": round(total("process_resident_memory_bytes") / 2**20, 1),
    }


def main() -> int:
    """Measure, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=50)
    options = parser.parse_args()
    print(f"load on the machine before: {os.getloadavg()[0]:.1f}")
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
        routes = [many_routes(scratch, number) for number in (10, 100, 500)]
    result = {"options": vars(options), "load": os.getloadavg()[0], "hops": hops, "routes": routes}
    print(f"\n{options.rate} requests/s, {options.rounds} rounds of {options.seconds} s, medians")
    print(f"{'way in':<20}{'p50 ms':>9}{'p99 ms':>9}{'ok':>7}  passes")
    for way, row in hops.items():
        print(f"{way:<20}{row['p50']:>9}{row['p99']:>9}{row['success']:>7.1%}  {WAYS[way]}")
        if any(row["others"]):
            print(f"{'':<20}other answers by round: {row['others']}")
    print(f"\n{'routes':<8}{'render s':>10}{'until s':>9}{'push s':>8}{'istiod MiB':>12}")
    for one in routes:
        print(
            f"{one['routes']:<8}{one['render_seconds']:>10}{one['until_it_routes_seconds']:>9}"
            f"{one['push_mean_seconds']:>8}{one['istiod_mebibytes']:>12}"
        )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


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
