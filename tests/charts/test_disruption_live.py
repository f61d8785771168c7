"""Pods come and go under a steady load, and no request fails; autoscalers follow the load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.charts.scratch import DIGIT, GATEWAY, HOST, NAMESPACE, Scratch, eventually, kubectl

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RATE = int(os.environ.get("SLIPWAY_LIVE_RATE", "20"))


@contextmanager
def load(folder: Path, rate: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """Predictions at a steady rate; calling what it gives ends it and reports on them."""
    (folder / "body.json").write_text(json.dumps(DIGIT), encoding="utf-8")
    targets = folder / "targets"
    targets.write_text(
        f"POST {GATEWAY}/v2/models/digits/infer\nHost: {HOST}\n"
        f"Content-Type: application/json\n@{folder / 'body.json'}\n",
        encoding="utf-8",
    )
    vegeta = programs.require("vegeta")
    results = folder / "results"
    with results.open("wb") as output:
        attack = subprocess.Popen(
            [
                vegeta,
                "attack",
                f"-rate={rate}",
                "-duration=0",
                "-timeout=20s",
                f"-targets={targets}",
            ],
            stdout=output,
        )

        def end() -> dict[str, Any]:
            attack.send_signal(signal.SIGINT)
            attack.wait(60)
            report = subprocess.run(
                [vegeta, "report", "-type=json", str(results)],
                check=True,
                capture_output=True,
                text=True,
            )
            found: dict[str, Any] = json.loads(report.stdout)
            return found

        try:
            yield end
        finally:
            if attack.poll() is None:
                attack.kill()
                attack.wait()


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


def _assert_none_failed(report: dict[str, Any]) -> None:
    assert report["requests"] > RATE, "hardly any load"
    assert report["status_codes"] == {"200": report["requests"]}, report["errors"]


def test_rolling_update_loses_no_request(two_pods: Scratch, tmp_path: Path) -> None:
    with load(tmp_path, RATE) as end:
        kubectl("rollout", "restart", "deployment/inference", "-n", NAMESPACE)
        two_pods.wait("inference")
        eventually(lambda: len(_pods("inference")), lambda pods: pods == 2, 120)
        _assert_none_failed(end())


def test_config_change_rolls_and_loses_no_request(two_pods: Scratch, tmp_path: Path) -> None:
    before = set(_pods("inference"))
    with load(tmp_path, RATE) as end:
        two_pods.release("inference", replicas=2, env={"INFERENCE_WARMUP_RUNS": "3"})
        two_pods.wait("inference")
        eventually(lambda: set(_pods("inference")), lambda now: not now & before, 120)
        _assert_none_failed(end())


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
        _assert_none_failed(end())


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
    _assert_none_failed(report)


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
            _assert_none_failed(end())
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
