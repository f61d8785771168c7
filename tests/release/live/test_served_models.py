"""release.live.served_models: what pods serve beside what Git wants, and failures to load."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from release.cluster import pod_request
from release.cluster.client import Cluster
from release.cluster.pod_request import Answer, Request
from release.diagnosis.releases import Finding, State
from release.errors import ReleaseError
from release.live import served_models
from release.live.served_models import ServedModel
from release.status import table
from release.status.table import Line
from release.values.references import Image, Model

DIGITS, IRIS = (Model(name, "1", f"s3://models/{name}/1", "0" * 64) for name in ("digits", "iris"))
SERVED = ServedModel("digits", "1", ready=True)
BROKEN = ServedModel("iris", "1", ready=False, reason="no operator Foo in ai.onnx 21")
WAITING = ServedModel("digits", "2", ready=False, reason="not loaded")


def texts(*seen: ServedModel, settled: bool = True) -> list[tuple[str, bool]]:
    found = served_models.causes([DIGITS, IRIS], {"pod-1": seen}, settled=settled)
    return [(cause.text, cause.final) for cause in found]


def test_a_model_that_failed_to_load_is_named_with_the_servers_reason() -> None:
    said = "pod-1 could not load iris/1: no operator Foo in ai.onnx 21"
    assert texts(SERVED, BROKEN) == [(said, True)]
    assert texts(SERVED, BROKEN, settled=False) == [(said, False)]


def test_a_model_that_git_does_not_want_fails_nothing() -> None:
    other = replace(BROKEN, name="other")
    iris = ServedModel("iris", "1", ready=True)
    assert [final for _, final in texts(SERVED, iris, other)] == [False]


def test_what_git_wants_and_a_pod_lacks_counts_after_the_rollout() -> None:
    assert texts(SERVED) == [("pod-1 does not serve iris/1, which Git wants", True)]
    assert texts(SERVED, settled=False) == []


def test_a_version_that_nobody_asked_for_is_no_failure() -> None:
    iris = ServedModel("iris", "1", ready=True)
    assert texts(SERVED, iris, WAITING) == []
    assert served_models.in_short({"a": [SERVED, WAITING], "b": [iris]}) == "digits/1, iris/1"


def test_the_index_is_read_strictly() -> None:
    row = {"name": "iris", "version": "1", "state": "UNAVAILABLE", "reason": BROKEN.reason}
    assert served_models.read(json.dumps([row])) == [BROKEN]
    for text in ("", "{}x", '[{"name": "a"}]', "[1]"):
        with pytest.raises(ReleaseError, match="cannot be read"):
            served_models.read(text)


def pod(component: str, name: str = "inference-1") -> dict[str, Any]:
    ports = [{"name": "grpc", "containerPort": 9001}, {"name": "http", "containerPort": 9000}]
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/component": component}},
        "spec": {"containers": [{"name": "istio-proxy"}, {"name": "inference", "ports": ports}]},
    }


def test_only_model_servers_are_asked_and_at_their_own_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, Request]] = []

    def ask(cluster: object, namespace: str, name: str, container: str, request: Request) -> Answer:
        asked.append((name, request))
        return Answer(200, "[]")

    monkeypatch.setattr(pod_request, "ask", ask)
    cluster = Cluster.__new__(Cluster)
    pods = [pod("gateway", "proxy-1"), pod("model-server")]
    assert served_models.of_pods(cluster, "dev", "inference", pods) == {"inference-1": []}
    ((name, request),) = asked
    assert (name, request.method, request.port) == ("inference-1", "POST", 9000)
    assert request.path == "/v2/repository/index"

    monkeypatch.setattr(pod_request, "ask", lambda *_: Answer(404, "no such path"))
    with pytest.raises(ReleaseError, match="inference-1 answered 404 no such path"):
        served_models.of_pods(cluster, "dev", "inference", pods)


@pytest.mark.parametrize(
    ("models", "serving", "shown"),
    [
        ((DIGITS,), {"a": [SERVED]}, "digits/1"),
        ((), {"a": [SERVED]}, "digits/1"),
        ((DIGITS,), "-", "digits/1"),
        ((DIGITS,), "served models not known: no", "digits/1 (served models not known: no)"),
        (
            (DIGITS, IRIS),
            {"a": [SERVED, BROKEN]},
            "wanted digits/1, iris/1; served digits/1, iris/1 (not served)",
        ),
    ],
)
def test_the_table_shows_what_is_served(models: Any, serving: Any, shown: str) -> None:
    finding = Finding("inference", State.DEPLOYED, Image())
    line = Line("dev", Image(), models, None, None, finding, serving=serving)
    console = Console(width=300, record=True)
    console.print(table.render([line], datetime.now(UTC)))
    assert f" {shown} " in console.export_text()
    listed = line.as_json()["serving"]
    assert listed is None if isinstance(serving, str) else "a" in listed
