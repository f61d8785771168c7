"""Autoscalers and Prometheus on the cluster: by queue, by requests, to no pods and back.

They need KEDA and Prometheus, which `make addons` brings. By CPU: test_disruption_live.py.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.charts.load import RATE, assert_none_failed, load
from tests.charts.scratch import (
    GATEWAY,
    HOST,
    NAMESPACE,
    Scratch,
    eventually,
    image_of,
    kubectl,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHALLENGER = "inference-challenger"
# A database of its own in the cluster's Redis.
DATABASE = "9"
REDIS = f"redis://redis.slipway-system:6379/{DATABASE}"
STREAMS = [f"{{slipway}}:jobs:{priority}" for priority in ("high", "normal", "low")]
DELAYED = "{slipway}:jobs:delayed"
MONITORED = {"enabled": True, "interval": "5s"}
# Enough rows that a worker is busy for a while.
JOB = {"instances": [[0.0] * 64] * 200}


@pytest.fixture(scope="module", autouse=True)
def addons() -> None:
    """Without them nothing here can work."""
    for name in ("scaledobjects.keda.sh", "prometheuses.monitoring.coreos.com"):
        found = kubectl("get", "crd", name, "--ignore-not-found")
        assert found, f"the cluster has no {name}: run `make addons`"


def replicas(release: str) -> int:
    """How many pods a release is to have."""
    path = "jsonpath={.spec.replicas}"
    return int(kubectl("get", "deployment", release, "-n", NAMESPACE, "-o", path))


def ready(release: str) -> int:
    """How many of them are ready."""
    path = "jsonpath={.status.readyReplicas}"
    return int(kubectl("get", "deployment", release, "-n", NAMESPACE, "-o", path) or 0)


def prometheus(path: str, **parameters: str) -> Any:
    """What Prometheus answers, through the API server."""
    service = "/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy"
    answer = json.loads(kubectl("get", "--raw", f"{service}/api/v1/{path}?{urlencode(parameters)}"))
    assert answer["status"] == "success", answer
    return answer["data"]


def number(query: str) -> float | None:
    """The one number a query answers; None where there is no such series."""
    result = prometheus("query", query=query)["result"]
    assert len(result) < 2, result
    return float(result[0]["value"][1]) if result else None


def remove(*objects: str) -> None:
    """Remove what another set of values would not render."""
    for one in objects:
        kubectl("delete", one, "-n", NAMESPACE, "--ignore-not-found")


@pytest.fixture(scope="module")
def monitored(scratch: Scratch) -> Iterator[Scratch]:
    """The model server with its ServiceMonitor and alerts, one of which is always true."""
    served = f'sum(inference_requests_total{{namespace="{NAMESPACE}"}}) > 0'
    alerts = {"Served": {"expr": served, "for": "0s", "summary": "it has answered"}}
    scratch.release("inference", monitoring={**MONITORED, "alerts": alerts})
    scratch.wait("inference")
    eventually(
        lambda: number(f'sum(up{{namespace="{NAMESPACE}",job="inference"}})'),
        lambda up: up == 1,
        180,
    )
    yield scratch
    scratch.release("inference")
    remove("servicemonitor/inference", "prometheusrule/inference")
    scratch.wait("inference")


def test_prometheus_counts_what_a_pod_of_the_strict_mesh_answers(monitored: Scratch) -> None:
    counted = f'inference_requests_total{{namespace="{NAMESPACE}",job="inference"}}'

    def total() -> float:
        """As of a scrape from now on."""
        now = time.time()
        eventually(lambda: number(f"min(timestamp({counted}))"), lambda at: (at or 0) > now)
        return number(f"sum({counted})") or 0

    assert monitored.ask().status == 200
    before = total()
    assert monitored.count(50, by="status") == {200: 50}
    assert total() == before + 50
    # Beside the service's own series come its sidecar's, from the same port.
    assert number(f'envoy_server_live{{namespace="{NAMESPACE}",job="inference"}}') == 1


def test_prometheus_needs_no_hole_in_the_mesh(monitored: Scratch) -> None:
    """The agent's port answers in plain text, the service's own port does not."""
    address = kubectl(
        *("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=inference"),
        *("-o", "jsonpath={.items[0].status.podIP}"),
    )
    program = (
        "import sys, urllib.request as u\n"
        "try: print(u.urlopen(sys.argv[1], timeout=5).status)\n"
        "except OSError as error: print(type(error).__name__)"
    )

    def fetch(url: str) -> str:
        """From outside of the mesh, as Prometheus does it."""
        pod = ("exec", "-n", "slipway-system", "deploy/redis", "--")
        return kubectl(*pod, "python3", "-c", program, url).strip()

    assert fetch(f"http://{address}:15020/stats/prometheus") == "200"
    assert fetch(f"http://{address}:8080/livez") in ("ConnectionResetError", "RemoteDisconnected")


def test_rules_are_loaded_and_fire(monitored: Scratch) -> None:
    def rules() -> dict[str, dict[str, Any]]:
        groups = prometheus("rules", type="alert")["groups"]
        own = [group for group in groups if group["name"] == f"{NAMESPACE}-inference"]
        return {rule["name"]: rule for group in own for rule in group["rules"]}

    loaded = eventually(
        rules, lambda seen: bool(seen) and all(one["health"] == "ok" for one in seen.values()), 120
    )
    assert loaded.keys() == {"NoPodReady", "RolloutStuck", "PodsRestart", "Served"}
    assert monitored.ask().status == 200
    fired = eventually(rules, lambda seen: seen["Served"]["state"] == "firing", 120)
    [alert] = fired["Served"]["alerts"]
    assert alert["labels"]["release"] == "inference"
    assert alert["annotations"]["summary"] == "it has answered"


def redis(*arguments: str) -> str:
    """One command to the cluster's Redis."""
    pod = ("exec", "-n", "slipway-system", "deploy/redis", "--")
    return kubectl(*pod, "redis-cli", "-n", DATABASE, *arguments).strip()


# One look at all of them: a job on its way from one to another would else be in neither.
COUNT = """
local count = redis.call('ZCARD', KEYS[1])
for n = 2, #KEYS do count = count + redis.call('XLEN', KEYS[n]) end
return count
"""


def unfinished() -> int:
    """Jobs that wait, are under way, or are to be tried again."""
    keys = [DELAYED, *STREAMS]
    return int(redis("EVAL", COUNT, str(len(keys)), *keys))


@pytest.fixture
def jobs(scratch: Scratch) -> Iterator[Scratch]:
    """A proxy that takes jobs, and a worker that KEDA scales by them; both without any yet."""
    redis("FLUSHDB")
    scratch.image |= {name: image_of(name) for name in ("proxy", "worker")}
    # One model server for three workers: what it is too busy for comes again.
    environment = {"PROXY_REDIS_URL": REDIS, "PROXY_JOBS": '{"max_attempts": 10}'}
    keda = {
        "enabled": True,
        "maxReplicas": 3,
        "cooldownSeconds": 10,
        "scaleDownSeconds": 0,
        "redis": {
            "database": int(DATABASE),
            "streams": dict.fromkeys(STREAMS, 20),
            "collections": {DELAYED: 20, "{slipway}:callbacks": 20},
        },
    }
    scratch.release("proxy", replicas=1, env=environment)
    scratch.release(
        "worker",
        env=environment,
        keda=keda,
        monitoring=MONITORED,
        # Slow enough that one is not enough.
        resources={"limits": {"cpu": "250m"}},
    )
    scratch.routes({"proxy": {"paths": ["/v1"]}})
    scratch.wait("proxy")
    yield scratch
    remove(
        *("scaledobject/worker", "podmonitor/worker", "prometheusrule/worker"),
        *("deployment/worker", "deployment/proxy"),
    )
    scratch.routes()
    redis("FLUSHDB")


def test_worker_comes_from_no_pods_and_goes_again_and_no_job_is_lost(jobs: Scratch) -> None:
    eventually(lambda: (replicas("worker"), ready("worker")), lambda seen: seen == (0, 0), 180)
    headers = {"Host": HOST}
    ids: set[str] = set()
    with httpx.Client(base_url=GATEWAY, headers=headers, timeout=30) as client:

        def submit(_: int) -> str:
            answer = client.post("/v1/jobs/digits", json=JOB)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["id"])

        def state(identity: str) -> tuple[str, int, str]:
            document = client.get(f"/v1/jobs/{identity}").json()
            return document["state"], document["attempts"], document.get("detail", "")

        with ThreadPoolExecutor(4) as pool:
            begin = time.monotonic()
            first = submit(0)
            ids.add(first)
            eventually(lambda: state(first)[0], lambda seen: seen == "succeeded", 120)
            print(f"first job after {time.monotonic() - begin:.1f} s, from no pods")

            def feed() -> int:
                if unfinished() < 80:
                    ids.update(pool.map(submit, range(60)))
                return ready("worker")

            eventually(feed, lambda pods: pods > 1, 240)
            print(f"{ready('worker')} workers after {time.monotonic() - begin:.1f} s")
            # One dies with jobs in its hands; others take them when its lease is over.
            victim = kubectl(
                *("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=worker"),
                *("--field-selector", "status.phase=Running"),
                *("-o", "jsonpath={.items[0].metadata.name}"),
            )
            ids.update(pool.map(submit, range(60)))
            kubectl("delete", "pod", victim, "-n", NAMESPACE, "--grace-period=0", "--force")
            ids.update(pool.map(submit, range(60)))
            eventually(unfinished, lambda left: left == 0, 240)
            ended = list(pool.map(state, sorted(ids)))
    why = Counter((attempts, detail) for _, attempts, detail in ended)
    assert Counter(one for one, _, _ in ended) == {"succeeded": len(ids)}, why
    print(f"{len(ids)} jobs, attempts and why: {why}")
    assert redis("XLEN", "{slipway}:jobs:dead") == "0"
    # What it counted is in Prometheus too, though no Service stands before it.
    assert number(f'sum(up{{namespace="{NAMESPACE}",pod=~"worker-.+"}})')
    eventually(lambda: (replicas("worker"), ready("worker")), lambda seen: seen == (0, 0), 180)
    print(f"no pods again after {time.monotonic() - begin:.1f} s")


def test_pods_follow_requests(scratch: Scratch, tmp_path: Path) -> None:
    """By a query for requests per second, as docs/operations/scaling.md shows it."""
    counted = f'inference_requests_total{{namespace="{NAMESPACE}",job="{CHALLENGER}"}}'
    keda = {
        "enabled": True,
        "minReplicas": 1,
        "maxReplicas": 3,
        "scaleDownSeconds": 0,
        "prometheus": {"query": f"sum(rate({counted}[30s]))", "threshold": RATE},
    }
    scratch.release(CHALLENGER, replicas=None, keda=keda, monitoring=MONITORED)
    scratch.wait(CHALLENGER)
    scratch.routes({"inference": {"split": {CHALLENGER: 100}}})
    try:
        eventually(lambda: replicas(CHALLENGER), lambda pods: pods == 1, 120)
        with load(tmp_path, 2 * RATE) as end:
            eventually(lambda: ready(CHALLENGER), lambda pods: pods > 1, 240)
            report = end()
        assert_none_failed(report)
        eventually(lambda: replicas(CHALLENGER), lambda pods: pods == 1, 240)
    finally:
        scratch.routes()
        remove(
            *(f"scaledobject/{CHALLENGER}", f"servicemonitor/{CHALLENGER}"),
            f"prometheusrule/{CHALLENGER}",
        )
        scratch.release(CHALLENGER)
        kubectl("scale", "deployment", CHALLENGER, "-n", NAMESPACE, "--replicas=1")
        scratch.wait(CHALLENGER)
