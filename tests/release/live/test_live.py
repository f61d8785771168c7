"""release.live: what `status` sees beside Argo CD's word: objects, addresses, traffic."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from release.cluster.client import Cluster
from release.live import gateway, objects
from release.live.objects import Live
from release.live.traffic import Prometheus, of_metrics, quantile
from tests.release.conftest import World, application_set_of, row
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.release.verification.test_verification import (
    DEPLOYMENTS,
    application,
    causes,
    deployment,
    everything_runs,
    kube,
    line,
    status,
    verify,
)

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
    (cause,) = objects.causes(app, Live(gone=["Service proxy"]), NOW)
    assert cause.final
    assert cause.text == (
        "Service proxy not in the cluster; Argo CD says Synced, compared 180 s ago"
    )
    # While Argo CD is about to make it, it is no fault yet.
    app["status"]["sync"]["status"] = "OutOfSync"
    assert not objects.causes(app, Live(gone=["Service proxy"]), NOW)[0].final


def test_a_comparison_that_is_old_is_said() -> None:
    app = application("proxy", "0" * 40)
    assert objects.causes(app, Live(), NOW) == []
    (cause,) = objects.causes(app, Live(), NOW.replace(hour=13))
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
    listed = application_set_of("dev", row("routing", "routing"), row("proxy"))
    world.push(
        {
            "argocd/environments/dev.yaml": listed,
            "values/dev/routing.yaml": yaml.safe_dump(routes),
            "values/dev/proxy.yaml": "callers: {gateway: {}}\n",
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
    assert "no Prometheus" in world.run("status", "--env", "dev").out
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


def policy(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "inference", "managedFields": list(entries)}}


def fields(manager: str, *, at: str = "2026-11-28T11:00:00Z", **spec: Any) -> dict[str, Any]:
    return {
        "manager": manager, "operation": "Update", "time": at,
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": spec},
    }  # fmt: skip


APPLIED = fields("argocd-controller", **{"f:podSelector": {}, "f:ingress": {}})


def test_a_change_by_hand_is_told_from_what_argo_cd_applied() -> None:
    """Found: a policy that somebody patched left status green, Argo CD's controller being dead."""
    kept = fields("argocd-controller", **{"f:podSelector": {}})
    patched = policy(kept, fields("kubectl-patch", **{"f:ingress": {}}))
    assert objects.by_hand(patched) == "spec.ingress by kubectl-patch at 2026-11-28T11:00:00Z"
    # Who writes the same value as Argo CD has changed nothing.
    assert not objects.by_hand(policy(APPLIED, fields("kubectl", **{"f:ingress": {}})))
    # Controllers write too, that is their work, and a restart is none of Git's business.
    assert not objects.by_hand(
        policy(APPLIED, fields("kube-controller-manager", **{"f:replicas": {}}))
    )
    annotation = {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/restartedAt": {}}}
    restart = {"f:template": {"f:metadata": annotation}}
    assert not objects.by_hand(policy(APPLIED, fields("kubectl-rollout", **restart)))
    # What Argo CD never applied, or applies as another, cannot be compared.
    assert not objects.by_hand(policy(fields("kubectl", **{"f:ingress": {}})))
    app = application("environment", "0" * 40)
    (cause,) = objects.causes(app, Live(changed=["NetworkPolicy inference (…)"]), NOW)
    assert cause.final
    assert "not as Git has it; Argo CD says Synced" in cause.text
    app["status"]["sync"]["status"] = "OutOfSync"
    assert not objects.causes(app, Live(changed=["NetworkPolicy inference (…)"]), NOW)[0].final


class Listed:
    """A cluster with these objects of a namespace, by kind."""

    def __init__(self, **kinds: list[dict[str, Any]]) -> None:
        self.kinds = kinds

    @staticmethod
    def path(_: str, kind: str, __: str) -> str:
        return kind

    def request(self, _: str, path: str) -> dict[str, Any]:
        return {"items": self.kinds[path]}


def test_a_policy_that_git_does_not_have_is_named_once() -> None:
    def resources(*names: str) -> list[dict[str, str]]:
        return [
            {"version": "v1", "kind": "AuthorizationPolicy", "namespace": "dev", "name": name}
            for name in names
        ]

    apps = {
        "environment": application("environment", "0" * 40, resources=resources("nothing")),
        "routing": application("routing", "0" * 40, resources=resources("proxy")),
    }
    there = [{"metadata": {"name": name}} for name in ("nothing", "proxy", "deny-all")]
    found = objects.live(Listed(AuthorizationPolicy=there), apps)  # type: ignore[arg-type]
    assert found["environment"] == Live([], [], ["AuthorizationPolicy deny-all"])
    assert found["routing"] == Live([], [], [])
    (cause,) = objects.causes(apps["environment"], found["environment"], NOW)
    assert not cause.final
    assert "AuthorizationPolicy deny-all in the namespace, which Git does not have" in cause.text


def certificate(*hosts: str, start: datetime, end: datetime) -> dict[str, Any]:
    """A Secret with a certificate of its own making."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), False)
        .sign(key, hashes.SHA256())
    )
    text = built.public_bytes(serialization.Encoding.PEM)
    data = {"tls.crt": base64.b64encode(text).decode(), "tls.key": "eA=="}
    return {"metadata": {"namespace": "istio-ingress", "name": "public"}, "data": data}


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("hosts", "start", "end", "told", "final"),
    [
        (["api.example.org"], -DAY, 90 * DAY, "", False),
        (["*.example.org"], -DAY, 90 * DAY, "", False),
        (["api.example.org"], -90 * DAY, -DAY, "expired at 2026-11-19T12:03:05Z", True),
        (["api.example.org"], DAY, 90 * DAY, "not valid before", True),
        (["api.example.org"], -DAY, 3 * DAY, "expires at 2026-11-23T12:03:05Z", False),
        (["example.org"], -DAY, 90 * DAY, "is for example.org, not for api.example.org", True),
        (["*.api.example.org"], -DAY, 90 * DAY, "not for api.example.org", True),
    ],
)
def test_a_certificate_is_in_time_and_for_the_hosts(
    hosts: list[str], start: timedelta, end: timedelta, told: str, final: bool
) -> None:
    """Found: with a tlsSecret that was not there, or had expired, everything stayed green."""
    secret = certificate(*hosts, start=NOW + start, end=NOW + end)
    found = list(gateway.of_certificate(secret, ["api.example.org"], NOW))
    assert [cause.final for cause in found] == ([final] if told else [])
    assert told in "".join(cause.text for cause in found)


def test_a_secret_without_a_readable_certificate_is_named() -> None:
    secret = certificate("x", start=NOW, end=NOW)
    secret["data"]["tls.crt"] = base64.b64encode(b"no certificate").decode()
    (cause,) = gateway.of_certificate(secret, ["x"], NOW)
    assert "istio-ingress/public: tls.crt cannot be read" in cause.text
    secret["data"] = {}
    (cause,) = gateway.of_certificate(secret, ["x"], NOW)
    assert "has no tls.crt and no tls.key" in cause.text


def test_a_gateway_without_pods_and_a_secret_that_is_not_there_keep_users_out(
    kube: Kubernetes, world: World
) -> None:
    """Found: with the gateway scaled to zero status was green."""
    kube.namespace("istio-ingress")
    cluster = Cluster(kubeconfig=str(kube.kubeconfig))
    values = {"hosts": ["api.example.org"], "gateway": {"tlsSecret": "nobody"}}
    texts = [cause.text for cause in gateway.causes(cluster, values, NOW)]
    assert texts == [
        "no pod of the ingress gateway is ready (istio-ingress, istio=ingressgateway): no user "
        "gets in",
        "there is no Secret nobody in istio-ingress: the gateway has no certificate",
    ]
    assert gateway.causes(cluster, {"hosts": []}, NOW) == []
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    ends = {"metadata": {"name": "a", "deletionTimestamp": "2026-11-28T10:00:00Z"}, "status": ready}
    assert list(gateway.of_pods([ends], "n", "l"))
    assert not list(gateway.of_pods([{"metadata": {"name": "b"}, "status": ready}], "n", "l"))
    routes = {"hosts": ["api.example.org"], "services": {}}
    listed = application_set_of("dev", row("routing", "routing"), row("proxy"))
    world.push(
        {
            "argocd/environments/dev.yaml": listed,
            "values/dev/routing.yaml": yaml.safe_dump(routes),
        }
    )
    kube.put(APPLICATIONS, application("routing", world.head()), subresource=False)
    kube.put(APPLICATIONS, application("proxy", world.head()), subresource=False)
    answer = status(world)
    assert answer.code == 6
    assert "gateway: no pod of the ingress gateway is ready" in causes(answer, "routing")


def test_a_deployment_that_somebody_scaled_to_zero_has_failed(
    kube: Kubernetes, world: World
) -> None:
    """Found: status and verify took it for one that Git wants without pods."""
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1")
    none = {"replicas": 0, "updatedReplicas": 0, "availableReplicas": 0, "readyReplicas": 0}
    scaled = deployment("proxy", "1", **none)
    scaled["spec"]["replicas"] = 0
    kube.put(DEPLOYMENTS, scaled)
    answer = status(world)
    assert answer.code == 6, answer.out
    assert "scaled to zero: Deployment proxy is scaled to no pods" in causes(answer, "proxy")
    told = verify(world, "--service", "proxy")
    assert told.code == 6, told.out
    assert "Deployment proxy is scaled to no pods, and Git wants some" in told.json["message"]
    world.push({"values/dev/proxy.yaml": "keda: {enabled: true}\n"})
    world.push({"values/services/proxy/service.yaml": "{}\n"})
    everything_runs(kube, world, "1")
    assert status(world).code == 0


def test_a_field_that_somebody_took_out_is_told_from_the_verified_manifest() -> None:
    """Found: nobody owns a field that is not there, so a policy that lets nobody in was green."""
    applied = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "inference", "labels": {"a": "b"}},
        "spec": {"ingress": [{"from": []}, {"from": []}], "podSelector": {}, "egress": []},
    }
    fewer = {**applied, "spec": {"ingress": [{"from": []}], "podSelector": {}}}
    # As a list has it: without kind and version.
    none = {"metadata": {"name": "inference"}, "spec": {"podSelector": {"a": "b"}}}
    assert list(objects.taken_out(applied, applied)) == []
    zero = {"spec": {**applied["spec"], "replicas": 0}}
    assert list(objects.taken_out({"spec": {"replicas": 1}}, zero)) == []
    assert list(objects.taken_out(applied, fewer)) == ["spec.ingress"]
    assert list(objects.taken_out(applied, none)) == ["spec.ingress"]
    row = {"version": "v1", "kind": "NetworkPolicy", "namespace": "dev", "name": "inference"}
    apps = {"environment": application("environment", "0" * 40, resources=[row])}
    cluster: Any = Listed(NetworkPolicy=[none])
    found = objects.live(cluster, apps, {"environment": [applied]})
    assert found["environment"].changed == ["NetworkPolicy inference (without spec.ingress)"]
    assert objects.live(cluster, apps)["environment"].changed == []
