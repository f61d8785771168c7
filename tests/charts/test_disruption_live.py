"""Pods come and go under a steady load, and no request fails; autoscalers follow the load."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.charts.gateways import Gateway, own_gateway
from tests.charts.kills import kill_pod, kill_sidecar
from tests.charts.load import RATE, assert_none_failed, load, tell
from tests.charts.scratch import (
    GATEWAY,
    HOST,
    NAMESPACE,
    Scratch,
    access_log,
    eventually,
    kubeconfig,
    kubectl,
    wait_for,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def two_pods(scratch: Scratch) -> Iterator[Scratch]:
    """Two pods of the model server, so that one can go."""
    scratch.release("inference", replicas=2)
    scratch.wait("inference")
    eventually(lambda: len(scratch.count(40, by="pod")), lambda pods: pods == 2)
    yield scratch
    scratch.release("inference", replicas=1)
    scratch.wait("inference")


def _pods(release: str) -> list[str]:
    listed = kubectl(
        *("get", "pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={release}"),
        *("--field-selector", "status.phase=Running", "-o", "json"),
    )
    return [
        pod["metadata"]["name"]
        for pod in json.loads(listed)["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]


def failures_at_the_gateway(since: datetime) -> list[dict[str, Any]]:
    """What the installed gateway logged of this namespace's requests that failed."""
    return [
        line
        for line in access_log("istio-ingress", "istio=ingressgateway", "istio-proxy", since)
        if line.get("authority") == HOST and int(line["response_code"] or 0) != 200
    ]


def test_rolling_update_loses_no_request(two_pods: Scratch, tmp_path: Path) -> None:
    with load(tmp_path, RATE) as end:
        kubectl("rollout", "restart", "deployment/inference", "-n", NAMESPACE)
        two_pods.wait("inference")
        eventually(lambda: len(_pods("inference")), lambda pods: pods == 2, 120)
        assert_none_failed(end())


def test_config_change_rolls_and_loses_no_request(two_pods: Scratch, tmp_path: Path) -> None:
    before = set(_pods("inference"))
    with load(tmp_path, RATE) as end:
        two_pods.release("inference", replicas=2, env={"INFERENCE_WARMUP_RUNS": "3"})
        two_pods.wait("inference")
        eventually(lambda: set(_pods("inference")), lambda now: not now & before, 120)
        assert_none_failed(end())


def test_eviction_waits_for_the_budget_and_loses_no_request(
    two_pods: Scratch, tmp_path: Path
) -> None:
    """What a node's drain does to each pod of it."""
    first, second = _pods("inference")
    with load(tmp_path, RATE) as end:
        assert _evict(first) == ""
        assert "disruption budget" in _evict(second), "both went at once"
        eventually(lambda: len(_pods("inference")), lambda pods: pods == 2)
        two_pods.wait("inference")
        assert_none_failed(end())


def test_node_drain_loses_no_request(two_pods: Scratch, tmp_path: Path) -> None:
    """`kubectl drain` of every pod of the environment, its budgets in force.

    The node is told at once that it may have pods again: it stands for the others of a real
    cluster. The drain goes by a label, so that it leaves other namespaces alone.
    """
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    old = [pod for name in ("inference", "inference-challenger") for pod in _pods(name)]
    kubectl("label", "pods", "-n", NAMESPACE, *old, f"drain={NAMESPACE}")
    drain = subprocess.Popen(
        [
            *(programs.require("kubectl"), f"--kubeconfig={kubeconfig()}", "drain", node),
            *(f"--pod-selector=drain={NAMESPACE}", "--delete-emptydir-data", "--timeout=300s"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with load(tmp_path, RATE) as end:
        try:
            path = "jsonpath={.spec.unschedulable}"
            eventually(lambda: kubectl("get", "node", node, "-o", path), bool)
        finally:
            kubectl("uncordon", node)
        said, _ = drain.communicate(timeout=300)
        two_pods.wait("inference", "inference-challenger")
        report = end()
    assert drain.returncode == 0, said
    assert "violate the pod's disruption budget" in said, "no budget held a pod back"
    left = [pod for name in ("inference", "inference-challenger") for pod in _pods(name)]
    assert not set(old) & set(left)
    assert_none_failed(report)


# Where a request may be carried out twice, one that was lost on its way is sent again.
TWICE = {"idempotent": True, "retryOn": ["connect-failure", "refused-stream", "reset", "503"]}


def _least_restarted() -> str:
    """A pod of inference that Kubernetes starts again without much delay."""
    listed = kubectl(
        *("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=inference"),
        *("-o", "json"),
    )
    restarts: dict[str, int] = {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for pod in json.loads(listed)["items"]
        if pod["metadata"]["name"] in _pods("inference")
    }
    return min(restarts, key=restarts.__getitem__)


KILLS = pytest.mark.parametrize("kill", [kill_pod, kill_sidecar], ids=["pod", "sidecar"])


@KILLS
def test_kill_loses_only_what_was_under_way(
    two_pods: Scratch, tmp_path: Path, kill: Callable[[str, str], None]
) -> None:
    """A prediction that had reached the dead pod is lost: it might be a write."""
    two_pods.routes()
    with load(tmp_path, RATE) as end:
        begin = datetime.now(UTC)
        kill(NAMESPACE, _least_restarted())
        report = end()
    lost = report["requests"] - report["status_codes"].get("200", 0)
    tell(kill.__name__, report)
    assert set(report["status_codes"]) <= {"200", "503"}, report
    # Each of them was on its way to a pod, and none of them failed for want of one.
    reasons = [line["response_code_details"] for line in failures_at_the_gateway(begin)]
    assert len(reasons) == lost, (reasons, report)
    assert all("upstream_reset_before_response_started" in reason for reason in reasons), reasons
    assert lost <= RATE, report


@KILLS
def test_kill_loses_nothing_that_may_be_carried_out_twice(
    two_pods: Scratch, tmp_path: Path, kill: Callable[[str, str], None]
) -> None:
    two_pods.routes({"inference": {"retries": TWICE}})
    try:
        with load(tmp_path, RATE) as end:
            kill(NAMESPACE, _least_restarted())
            report = end()
    finally:
        two_pods.routes()
    tell(f"{kill.__name__}, sent again", report)
    assert_none_failed(report)


def _restart_istiod() -> None:
    kubectl("rollout", "restart", "deployment/istiod", "-n", "istio-system")


def _kill_istiod() -> None:
    kubectl(
        *("delete", "pod", "-n", "istio-system", "-l", "app=istiod"),
        *("--grace-period=0", "--force"),
    )


@pytest.mark.parametrize("disturb", [_restart_istiod, _kill_istiod], ids=["restart", "kill"])
def test_istiod_may_go_and_no_request_is_lost(
    two_pods: Scratch, tmp_path: Path, disturb: Callable[[], None]
) -> None:
    """Envoys go on with the routes they have, and learn new ones from the next istiod."""
    split = {"inference": 50, "inference-challenger": 50}
    with load(tmp_path, RATE) as end:
        disturb()
        wait_for("istio-system", "istiod")
        two_pods.routes({"inference": {"split": split}})
        eventually(lambda: two_pods.count(20), lambda seen: len(seen) == 2)
        report = end()
    two_pods.routes()
    assert_none_failed(report)


@pytest.fixture(scope="module", params=[1, 2], ids=["one pod", "two pods"])
def own(two_pods: Scratch, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A gateway that only this test's requests go through."""
    with own_gateway("ingress", request.param) as gateway:
        two_pods.gateway = gateway.url
        two_pods.routes(gateway=gateway.values)
        eventually(gateway.listens, bool)
        eventually(lambda: two_pods.ask().status, lambda status: status == 200)
        yield gateway
        two_pods.gateway = GATEWAY
        two_pods.routes()


def test_gateway_restart_loses_no_request(own: Gateway, tmp_path: Path) -> None:
    before = set(own.pods())
    with load(tmp_path, RATE, own.url) as end:
        kubectl("rollout", "restart", "deployment/ingressgateway", "-n", own.namespace)
        own.wait()
        eventually(own.pods, lambda now: not set(now) & before)
        path = "jsonpath={.items[*].metadata.name}"
        eventually(
            lambda: kubectl("get", "pods", "-n", own.namespace, "-o", path).split(),
            lambda now: not set(now) & before,
        )
        report = end()
    tell(f"gateway restart, {len(before)} pods", report)
    assert_none_failed(report)


def test_gateway_kill_loses_only_its_connections(
    own: Gateway, two_pods: Scratch, tmp_path: Path
) -> None:
    """Nobody is left who could answer on its connections: the client must send again."""
    with load(tmp_path, RATE, own.url) as end:
        killed, *others = own.pods()
        kill_pod(own.namespace, killed)
        report = end()
    tell(f"gateway kill, {1 + len(others)} pods", report)
    # 0: no answer at all; nothing that was answered was answered wrongly.
    assert set(report["status_codes"]) <= {"200", "0"}, report
    assert two_pods.count(50, by="status") == {200: 50}


def test_route_change_loses_no_request(two_pods: Scratch, tmp_path: Path) -> None:
    with load(tmp_path, RATE) as end:
        for share in (5, 50, 100, 0):
            split = {"inference": 100 - share, "inference-challenger": share}
            two_pods.routes({"inference": {"split": split}})
            eventually(
                lambda: two_pods.count(40)["inference-challenger"],
                # At 5 percent, 40 requests may well meet none.
                lambda seen, share=share: seen > 0 if share > 5 else True,  # type: ignore[misc]
            )
        report = end()
    two_pods.routes()
    assert_none_failed(report)


def test_autoscaler_follows_the_load(scratch: Scratch, tmp_path: Path) -> None:
    name = "inference-challenger"
    scaling = {"enabled": True, "maxReplicas": 3, "cpuPercent": 60, "scaleDownSeconds": 0}
    scratch.release(name, replicas=None, autoscaling=scaling)
    scratch.wait(name)
    scratch.routes({"inference": {"split": {name: 100}}})

    def wanted() -> int:
        path = "jsonpath={.status.desiredReplicas}"
        return int(kubectl("get", "hpa", name, "-n", NAMESPACE, "-o", path) or 0)

    try:
        eventually(wanted, lambda replicas: replicas == 1, 120)
        with load(tmp_path, 2 * RATE) as end:
            eventually(wanted, lambda replicas: replicas > 1, 180)
            eventually(lambda: len(_pods(name)), lambda pods: pods > 1, 60)
            scratch.wait(name)
            assert_none_failed(end())
        eventually(wanted, lambda replicas: replicas == 1, 180)
    finally:
        scratch.release(name)
        kubectl("delete", "hpa", name, "-n", NAMESPACE, "--ignore-not-found")
        kubectl("scale", "deployment", name, "-n", NAMESPACE, "--replicas=1")
        scratch.routes()


def _evict(pod: str) -> str:
    """Ask for a pod's eviction; why it is refused, or nothing."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    answer = kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body), check=False)
    return "" if '"Success"' in answer else answer
