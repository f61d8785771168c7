"""release.look: what `status` sees beside Argo CD's word: objects, addresses, traffic."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from release.look import objects
from release.look.traffic import Prometheus, of_metrics, quantile
from tests.release.conftest import World
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.release.test_cluster import application, causes, everything_runs, kube, line, status

__all__ = ["kube"]

NOW = datetime(2026, 11, 20, 12, 3, 5, tzinfo=UTC)
PROXY = """
# TYPE SECONDS histogram
SECONDS_bucket{http_route="/",http_response_status_code="200",le="0.1"} 90
SECONDS_bucket{http_route="/",http_response_status_code="200",le="0.2"} 100
SECONDS_bucket{http_route="/",http_response_status_code="200",le="+Inf"} 100
SECONDS_count{http_route="/",http_response_status_code="200"} 100
SECONDS_sum{http_route="/",http_response_status_code="200"} 5
SECONDS_count{http_route="/",http_response_status_code="503"} 3
SECONDS_count{http_route="/",http_response_status_code="429"} 2
""".replace("SECONDS", "http_server_request_duration_seconds")
SERVER = """
# TYPE inference_requests counter
inference_requests_total{model="m",version="1",protocol="rest",status="200"} 7
"""


def test_the_metrics_of_pods_are_added_up() -> None:
    found = of_metrics([PROXY, PROXY])
    assert found is not None
    assert (found.requests, found.refused, found.failed) == (210, 4, 6)
    assert found.p99 == pytest.approx(0.19)
    assert str(found) == "210, 6 failed, 4 refused, p99 190 ms"
    assert str(of_metrics([SERVER])) == "7, 0 failed"
    assert of_metrics(["other 1\n"]) is None


def test_a_quantile_is_the_one_of_prometheus() -> None:
    inf = float("inf")
    assert quantile({1.0: 50, 2.0: 100, inf: 100}, 0.5) == 1.0
    assert quantile({1.0: 0, 2.0: 10, inf: 10}, 0.5) == 1.5
    assert quantile({1.0: 1, inf: 100}, 0.99) == 1.0
    assert quantile({1.0: 0, inf: 0}, 0.99) is None
    assert quantile({}, 0.99) is None


class Told(Prometheus):
    """A Prometheus that answers by the beginning of the query."""

    def __init__(self, answers: dict[str, list[dict[str, Any]]]) -> None:
        self.answers = answers

    def query(self, text: str) -> list[dict[str, Any]]:
        return next((rows for key, rows in self.answers.items() if key in text), [])


def test_prometheus_tells_of_the_last_minutes() -> None:
    rows = [
        {"metric": {"status": "200"}, "value": [0, "11.6"]},
        {"metric": {"status": "500"}, "value": [0, "1.2"]},
    ]
    slow = [{"metric": {}, "value": [0, "NaN"]}]
    told = Told({"increase(inference_requests_total": rows, "histogram_quantile": slow})
    found = told.traffic("dev", "inference")
    assert found is not None
    assert (str(found), found.span) == ("13, 1 failed", "last 5m")
    assert Told({}).traffic("dev", "inference") is None


def test_an_object_that_is_gone_contradicts_argo_cd() -> None:
    app = application("proxy", "0" * 40)
    (cause,) = objects.causes(app, ["Service proxy"], NOW)
    assert cause.final
    assert cause.text == (
        "Service proxy not in the cluster; Argo CD says Synced, compared 180 s ago"
    )
    # While Argo CD is about to make it, it is no fault yet.
    app["status"]["sync"]["status"] = "OutOfSync"
    assert not objects.causes(app, ["Service proxy"], NOW)[0].final


def test_a_comparison_that_is_old_is_said() -> None:
    app = application("proxy", "0" * 40)
    assert objects.causes(app, [], NOW) == []
    (cause,) = objects.causes(app, [], NOW.replace(hour=13))
    assert cause.text == "Argo CD has compared this 3780 s ago: does its controller run?"


@pytest.fixture
def service(kube: Kubernetes) -> Iterator[str]:
    path = "/api/v1/namespaces/dev/services"
    kube.client.delete(f"{path}/proxy")
    yield path
    kube.client.delete(f"{path}/proxy")
    kube.client.delete("/apis/discovery.k8s.io/v1/namespaces/dev/endpointslices")


def test_a_deleted_service_is_seen_though_argo_cd_is_dead(
    kube: Kubernetes, world: World, service: str
) -> None:
    """Found: status was green for 154 s, Argo CD's controller being dead."""
    routes = {"services": {"proxy": {"paths": ["/"]}}}
    rows = [{"release": "routing", "chart": "routing"}, {"release": "proxy", "chart": "service"}]
    listed = {"spec": {"generators": [{"list": {"elements": rows}}]}}
    world.push(
        {
            "argocd/dev.yaml": yaml.safe_dump(listed),
            "values/dev/routing.yaml": yaml.safe_dump(routes),
        }
    )
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy")
    resource = {"version": "v1", "kind": "Service", "namespace": "dev", "name": "proxy"}
    app = application("proxy", world.head(), resources=[resource])
    kube.put(APPLICATIONS, app, subresource=False)
    kube.put(APPLICATIONS, application("routing", world.head()), subresource=False)
    kube.send("POST", service, {"metadata": {"name": "proxy"}, "spec": {"ports": [{"port": 80}]}})
    slices = "/apis/discovery.k8s.io/v1/namespaces/dev/endpointslices"
    labelled = {"name": "proxy-1", "labels": {"kubernetes.io/service-name": "proxy"}}
    endpoint = {"addresses": ["10.1.0.1"], "conditions": {"ready": True}}
    kube.put(slices, {"metadata": labelled, "addressType": "IPv4", "endpoints": [endpoint]})
    answer = status(world)
    assert answer.code == 0, answer.out
    assert line(answer, "proxy")["endpoints"] == 1
    kube.send("DELETE", f"{service}/proxy")
    answer = status(world)
    assert answer.code == 6, answer.out
    assert "Service proxy not in the cluster; Argo CD says Synced" in causes(answer, "proxy")
    kube.client.delete(slices)
    kube.send("POST", service, {"metadata": {"name": "proxy"}, "spec": {"ports": [{"port": 80}]}})
    answer = status(world)
    assert answer.code == 6
    assert line(answer, "proxy")["endpoints"] == 0
    assert "endpoints: there is no Service proxy (nor endpoints of one)" in causes(answer, "proxy")


def test_requests_that_were_refused_unread_are_traffic_too() -> None:
    """Found: the proxy and the server count these apart, so status showed none refused."""
    unread = '# TYPE slipway_proxy_failures counter\nslipway_proxy_failures_total{type="%s"} 50\n'
    found = of_metrics([PROXY, unread % "overloaded", unread % "backend-down"])
    assert found is not None
    assert (found.requests, found.refused) == (155, 52)
    server = '# TYPE inference_refused counter\ninference_refused_total{reason="overloaded"} 4\n'
    assert str(of_metrics([SERVER, server])) == "11, 0 failed, 4 refused"
