"""release.checks.user_requests: what users were answered since a commit counts for its verdict."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from release.checks.user_requests import Limit, Requests, UserRequests, grown
from release.cluster.client import Cluster, Observation
from release.errors import NotFoundError, ReleaseError
from release.live.traffic import Prometheus
from tests.programs import require
from tests.release.checks.test_checks import HOST, SLICES, Gateway, deployed_behind, gateway, slices
from tests.release.conftest import World
from tests.release.kube import Kubernetes
from tests.release.verification.test_verification import kube, labels, verify

__all__ = ["gateway", "kube"]

COMMIT = datetime(2026, 11, 28, 10, 0, 0, tzinfo=UTC)
BEFORE, AFTER = "2026-11-28T09:00:00Z", "2026-11-28T10:00:05Z"


def metrics(refused: int = 0, **counts: int) -> str:
    """What the proxy's /metrics says; ``counts`` are by status, as ``s200``."""
    name = "http_server_request_duration_seconds"
    lines = [f"# TYPE {name} histogram"]
    lines += [
        f'{name}_count{{http_route="/",http_response_status_code="{status[1:]}"}} {count}'
        for status, count in counts.items()
    ]
    lines += [
        "# TYPE slipway_proxy_failures counter",
        f'slipway_proxy_failures_total{{http_route="/",type="overloaded"}} {refused}',
    ]
    return "\n".join(lines) + "\n"


def pod(name: str, made: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name, "uid": name, "labels": labels("proxy"), "creationTimestamp": made,
        },
        "spec": {"containers": [{"name": "proxy"}]},
        "status": {"phase": "Running"},
    }  # fmt: skip


@dataclass
class Pods:
    """A cluster whose pods answer with these metrics."""

    texts: dict[str, str] = field(default_factory=dict)
    error: ReleaseError | None = None

    def run_in_pod(self, _: str, pod: str, __: str, command: Sequence[str]) -> str:
        if self.error is not None:
            raise self.error
        return json.dumps({"status": 200, "body": self.texts[pod]})


def counting(
    cluster: Pods, prometheus: Prometheus | None = None, limit: Limit | None = None
) -> UserRequests:
    return UserRequests(
        cluster,  # type: ignore[arg-type]
        "dev", ["proxy"], COMMIT.timestamp(), limit or Limit(), prometheus,
    )  # fmt: skip


def seen(*pods: dict[str, Any]) -> Observation:
    return Observation({}, pods=pods)


NOW = COMMIT.timestamp() + 60


def test_pods_of_before_count_from_the_start_and_new_ones_from_nothing() -> None:
    old, new = pod("old", BEFORE), pod("new", AFTER)
    cluster = Pods({"old": metrics(s200=1000, s500=400)})
    made = counting(cluster)
    made.begin(seen(old), NOW)
    cluster.texts = {"old": metrics(s200=1010, s500=401), "new": metrics(s200=30, s503=2)}
    assert made.look(seen(old, new)) == [("proxy", made.found[0].problem(Limit()))]
    assert dict(made.found[0].by_status) == {200: 40, 500: 1, 503: 2}
    assert str(made.found[0]) == (
        "proxy: 43 requests of users since 2026-11-28T10:00:00Z, of older pods since "
        "2026-11-28T10:01:00Z (counted by its pods), "
        "1 failed, 2 refused (500: 1, 503: 2)"
    )


def test_a_share_above_the_limit_is_a_problem_with_its_figures() -> None:
    cluster = Pods({"new": metrics(s200=90, s500=6)})
    made = counting(cluster)
    made.begin(seen(), NOW)
    ((release, problem),) = made.look(seen(pod("new", AFTER)))
    assert release == "proxy"
    assert problem.text == (
        "6 of 96 requests of users since 2026-11-28T10:00:00Z (counted by its pods) failed or "
        "were refused (500: 6); 5% may"
    )
    assert "see the log of proxy" in problem.fix
    assert "--failed-share" in problem.fix
    more = counting(cluster, limit=Limit(share=0.1))
    assert more.look(seen(pod("new", AFTER))) == []


def test_requests_that_the_proxy_refused_unread_are_counted() -> None:
    """Its counter of requests has not got them: they were refused before they were read."""
    made = counting(Pods({"new": metrics(s200=20, refused=30)}))
    ((_, problem),) = made.look(seen(pod("new", AFTER)))
    assert "30 of 50 requests" in problem.text
    assert "429: 30" in problem.text
    assert "more pods" in problem.fix


def test_few_requests_are_stated_and_not_judged() -> None:
    made = counting(Pods({"new": metrics(s500=19)}))
    assert made.look(seen(pod("new", AFTER))) == []
    (note,) = made.notes()
    assert "19 requests of users" in note
    assert note.endswith("19 failed, 0 refused (500: 19); fewer than 20 are not judged.")


def test_that_no_requests_were_seen_is_said() -> None:
    made = counting(Pods({"new": metrics()}))
    assert made.look(seen(pod("new", AFTER))) == []
    assert made.notes() == [
        "proxy: no requests of users were seen since 2026-11-28T10:00:00Z (counted by its pods)."
    ]


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        (Pods({"new": "other 1\n"}), "by a name that is known"),
        (Pods(error=NotFoundError("no such program")), "nor curl to ask with (no such program)"),
        (Pods(error=ReleaseError("it cannot be asked")), "it cannot be asked"),
    ],
)
def test_what_cannot_be_counted_is_said(cluster: Pods, why: str) -> None:
    made = counting(cluster)
    assert made.look(seen(pod("new", AFTER))) == []
    assert made.found[0].unknown.endswith(why)
    assert "are not known" in made.notes()[0]


def test_a_pod_that_could_not_be_read_at_the_start_is_left_out() -> None:
    """What it counts may be of months ago."""
    cluster = Pods(error=ReleaseError("away"))
    made = counting(cluster)
    made.begin(seen(pod("old", BEFORE)), NOW)
    cluster.error = None
    cluster.texts = {"old": metrics(s500=1000)}
    assert made.look(seen(pod("old", BEFORE))) == []
    assert "no pod of it could be read from the beginning" in made.notes()[0]


def test_of_an_old_commit_only_the_last_minutes_count() -> None:
    made = counting(Pods())
    made.begin(seen(), COMMIT.timestamp() + 86400)
    assert made.start == COMMIT.timestamp() + 86400 - 900


def test_counters_of_a_container_that_began_again_count_from_nothing() -> None:
    assert grown(Counter({200: 5}), Counter({200: 900, 500: 3})) == {200: 5}
    assert grown(Counter({200: 905, 500: 3}), Counter({200: 900, 500: 3})) == {200: 5}


@dataclass
class Asked(Prometheus):
    """A Prometheus that answers by a part of the query."""

    cluster: Cluster = field(default_factory=lambda: None)  # type: ignore[assignment,return-value]
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)

    def query(self, text: str) -> list[dict[str, Any]]:
        self.queries.append(text)
        return next((rows for key, rows in self.answers.items() if key in text), [])


UP = [{"metric": {"pod": "new"}, "value": [0, "1"]}]


def test_prometheus_is_asked_where_it_reads_every_pod() -> None:
    rows = [
        {"metric": {"http_response_status_code": code}, "value": [0, count]}
        for code, count in (("200", "70"), ("502", "30"))
    ]
    prometheus = Asked(
        answers={"up{": UP, "sum by (http_response_status_code)": rows,
                 "slipway_proxy_failures_total": [{"metric": {}, "value": [0, "100"]}]}
    )  # fmt: skip
    made = counting(Pods(error=ReleaseError("not to be asked")), prometheus)
    ((_, problem),) = made.look(seen(pod("new", AFTER)))
    assert "130 of 200 requests" in problem.text
    assert "(counted by Prometheus)" in problem.text
    assert made.as_json() == {
        "limit": {"share": 0.05, "least": 20},
        "releases": [
            {
                "release": "proxy", "source": "Prometheus", "since": "2026-11-28T10:00:00Z",
                "older_pods_since": None,
                "requests": 200, "failed": 30, "refused": 100, "verifier_included": False,
                "by_status": {"200": 70, "429": 100, "502": 30}, "unknown": "",
            }
        ],
    }  # fmt: skip


def test_pods_that_prometheus_does_not_read_yet_are_asked_themselves() -> None:
    made = counting(Pods({"newer": metrics(s200=7)}), Asked(answers={"up{": UP}))
    made.look(seen(pod("newer", AFTER)))
    assert (made.found[0].source, made.found[0].total) == ("its pods", 7)


def test_prometheus_counts_since_the_commit_exactly(tmp_path: Path) -> None:
    """Its own tool runs the query: an old pod's growth, a new pod's all, and no reset below 0."""
    prometheus = Asked(answers={"up{": UP})
    prometheus.since("dev", "proxy", 120.0)
    query = prometheus.queries[0]
    name = "http_server_request_duration_seconds_count"

    def series(pod: str, code: str, values: str) -> dict[str, str]:
        inside = f'namespace="dev",pod="{pod}",http_response_status_code="{code}"'
        return {"series": f"{name}{{{inside}}}", "values": values}

    tests = {
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [
                    series("proxy-6f7d-aaaaa", "200", "100+10x10"),  # 140 at 120 s, 200 at 300 s
                    series("proxy-6f7d-aaaaa", "500", "7x10"),
                    series("proxy-99ff-bbbbb", "200", "_x7 3 4 5"),  # begins after the commit
                    series("other-99ff-bbbbb", "200", "0+50x10"),
                ],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "5m",
                        "exp_samples": [
                            {"labels": '{http_response_status_code="200"}', "value": 65},
                            {"labels": '{http_response_status_code="500"}', "value": 0},
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        [require("promtool"), "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_requests_of_a_mesh_are_said_to_have_the_verifier_s_among_them() -> None:
    text = str(Requests("page", {200: 3}, NOW, source="Prometheus", with_probes=True))
    assert "the verifier's own among them" in text


@pytest.mark.usefixtures("gateway")
def test_a_deployment_whose_users_were_answered_errors_has_failed(
    gateway: Gateway, kube: Kubernetes, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verifier's own requests are answered well all the while."""
    told = {"text": metrics(s200=60, s500=40)}
    monkeypatch.setattr(
        Cluster, "run_in_pod", lambda *_: json.dumps({"status": 200, "body": told["text"]})
    )
    kube.client.delete(SLICES)
    deployed_behind(gateway, kube, world)
    for one in slices("proxy"):
        kube.put(SLICES, one)
    gateway.answers["/"] = (200, "hello")
    answer = verify(world)
    assert answer.code == 6, answer.out
    assert "proxy: requests: 40 of 100 requests of users since" in answer.json["message"]
    answer = verify(world, "--failed-share", "0.5")
    assert answer.code == 0, answer.out
    (said,) = answer.json["requests"]["releases"]
    assert (said["release"], said["requests"], said["failed"]) == ("proxy", 100, 40)
    assert verify(world, "--no-check").json["requests"] is None
    told["text"] = metrics(s200=3)
    plain = world.run("verify", "--env", "dev", "--timeout", "90", "--poll", "0.05")
    assert f"{HOST}" not in plain.out
    assert "proxy: 3 requests of users since" in plain.out
    assert "none failed or was refused; fewer than 20 are not judged." in plain.out
    kube.client.delete(SLICES)
