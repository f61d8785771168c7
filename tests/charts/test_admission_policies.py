"""What argocd/platform/admission.yaml keeps out of an environment, judged by a real API server.

What an attacker with the right to write an environment's values tried stands in TRIED; what is
shipped is admitted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from release.values import layout
from tests.charts.admission import ApiServer, api_server
from tests.charts.rendering import ENVIRONMENTS, ROOT, Manifest, manifests, releases, render
from tests.waits import until

POLICIES = ROOT / "argocd/platform/admission.yaml"
REGISTRY = "registry.test/slipway/"
DIGEST = "@sha256:" + "0" * 64
IMAGE = f"{REGISTRY}proxy:1{DIGEST}"
PARAMETERS = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "slipway-admission", "namespace": "kube-system"},
    "data": {
        "registries": f"{REGISTRY}, 127.0.0.1:5000/slipway/",
        "sidecarImages": "registry.test/istio/proxyv2@",
    },
}
OF_ISTIO = {
    "networking.istio.io": {
        "v1": ("DestinationRule", "EnvoyFilter", "Gateway", "ServiceEntry", "Sidecar",
               "VirtualService"),
    },
    "gateway.networking.k8s.io": {"v1": ("Gateway", "HTTPRoute")},
}  # fmt: skip


def crd(group: str, version: str, kind: str) -> Manifest:
    plural = kind.lower() + "s" if kind[-2:] != "ry" else kind.lower()[:-1] + "ies"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [
                {"name": version, "served": True, "storage": True,
                 "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the environments' namespaces and the policies, which hold already."""
    with api_server(tmp_path_factory.mktemp("guarded")) as server:
        for group, versions in OF_ISTIO.items():
            for version, kinds in versions.items():
                for kind in kinds:
                    applied(server, crd(group, version, kind))
        namespaces = [
            one
            for environment in ENVIRONMENTS
            for one in manifests((ROOT / layout.project_file(environment)).read_text())
            if one["kind"] == "Namespace"
        ]
        for one in namespaces:
            applied(server, one)
        applied(server, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
        account = {"name": "default", "namespace": "dev"}  # a controller makes it, elsewhere
        applied(server, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        for one in manifests(POLICIES.read_text()):
            applied(server, one)
        # Nothing is allowed while nobody has said what is.
        until(lambda: "no params found" in refused(server, deployment()))
        applied(server, PARAMETERS)
        until(lambda: refused(server, deployment()) == "")
        until(lambda: "istio" in refused(server, annotated("sidecar.istio.io/inject", "false")))
        until(lambda: refused(server, gateway("evil.test")) != "")
        yield server


def applied(server: ApiServer, one: Manifest) -> None:
    answer = server.kubectl("apply", "--server-side", "--filename", "-", text=json.dumps(one))
    assert answer.returncode == 0, answer.stderr


def refused(server: ApiServer, one: Manifest) -> str:
    """Why the API server does not take an object; empty where it does. Nothing is stored."""
    return server.refusal(one)


def pod_spec(image: str = IMAGE) -> dict[str, Any]:
    return {
        "containers": [
            {
                "name": "proxy",
                "image": image,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
    }  # fmt: skip


def deployment(image: str = IMAGE, namespace: str = "dev", kind: str = "Deployment") -> Manifest:
    labels = {"app": "proxy"}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "proxy", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(image)},
        },
    }


def pod(image: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "proxy", "namespace": "dev"},
        "spec": pod_spec(image),
    }


def cron_job(image: str) -> Manifest:
    spec = pod_spec(image) | {"restartPolicy": "Never"}
    template = {"metadata": {}, "spec": spec}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "unzip", "namespace": "dev"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}},
    }


def job(image: str) -> Manifest:
    made = cron_job(image)
    spec = made["spec"]["jobTemplate"]["spec"]
    return made | {"kind": "Job", "spec": spec}


def with_init(image: str) -> Manifest:
    made = deployment()
    spec = made["spec"]["template"]["spec"]
    spec["initContainers"] = [copy.deepcopy(spec["containers"][0]) | {"name": "a", "image": image}]
    return made


def with_sidecar(image: str) -> Manifest:
    made = deployment()
    spec = made["spec"]["template"]["spec"]
    sidecar = copy.deepcopy(spec["containers"][0]) | {"name": "istio-proxy", "image": image}
    spec["containers"].append(sidecar)
    return made


def labelled(key: str, value: str) -> Manifest:
    made = deployment()
    made["spec"]["template"]["metadata"]["labels"][key] = value
    return made


def with_volume(reference: str) -> Manifest:
    made = deployment()
    volume = {"name": "mounted", "image": {"reference": reference}}
    made["spec"]["template"]["spec"]["volumes"] = [volume]
    return made


def annotated(key: str, value: str, of: Callable[[str], Manifest] = deployment) -> Manifest:
    made = of(IMAGE)
    spec = made["spec"]
    spec = spec["jobTemplate"]["spec"] if made["kind"] == "CronJob" else spec
    spec["template"]["metadata"]["annotations"] = {key: value}
    return made


def istio(kind: str, namespace: str = "dev", **spec: Any) -> Manifest:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": "tried", "namespace": namespace},
        "spec": spec,
    }


def gateway(*hosts: str, namespace: str = "dev") -> Manifest:
    port = {"number": 80, "name": "http", "protocol": "HTTP"}
    own = {"port": port, "hosts": ["dev.slipway.localhost"]}
    return istio("Gateway", namespace, servers=[own, {"port": port, "hosts": list(hosts)}])


def of_gateway_api(kind: str, **spec: Any) -> Manifest:
    return istio(kind, **spec) | {"apiVersion": "gateway.networking.k8s.io/v1"}


ELSEWHERE = f"docker.io/evil/proxy:1{DIGEST}"
TRIED: dict[str, tuple[Manifest, str]] = {
    "a tag": (deployment(f"{REGISTRY}proxy:1"), "proxy:1 of the container proxy has no digest"),
    "latest": (deployment(f"{REGISTRY}proxy"), "has no digest"),
    "a short digest": (deployment(f"{REGISTRY}proxy@sha256:abc"), "has no digest"),
    "a tag in a pod": (pod(f"{REGISTRY}proxy:1"), "has no digest"),
    "a tag in a CronJob": (cron_job(f"{REGISTRY}proxy:1"), "has no digest"),
    "a tag in a Job": (job(f"{REGISTRY}proxy:1"), "has no digest"),
    "a tag in a StatefulSet": (
        deployment(f"{REGISTRY}proxy:1", kind="StatefulSet"), "has no digest",
    ),
    "a tag in a DaemonSet": (deployment(f"{REGISTRY}p:1", kind="DaemonSet"), "has no digest"),
    "a tag in an init container": (with_init(f"{REGISTRY}proxy:1"), "has no digest"),
    "another registry": (deployment(ELSEWHERE), "is from no allowed registry (registry.test/"),
    "another registry in a pod": (pod(ELSEWHERE), "is from no allowed registry"),
    "another registry in a CronJob": (cron_job(ELSEWHERE), "is from no allowed registry"),
    "another registry in an init container": (with_init(ELSEWHERE), "is from no allowed registry"),
    "a registry whose name begins alike": (
        deployment(f"registry.test/slipway-evil/proxy{DIGEST}"), "is from no allowed registry",
    ),
    "a registry in the middle": (
        deployment(f"evil.test/{REGISTRY}proxy{DIGEST}"), "is from no allowed registry",
    ),
    "a sidecar of one's own": (with_sidecar(ELSEWHERE), "of istio-proxy is not the mesh's"),
    "a service's image as sidecar": (with_sidecar(IMAGE), "of istio-proxy is not the mesh's"),
    "the sidecar's image": (
        annotated("sidecar.istio.io/proxyImage", ELSEWHERE), "sidecar.istio.io/proxyImage changes",
    ),
    "no sidecar": (annotated("sidecar.istio.io/inject", "false"), "sidecar.istio.io/inject"),
    "excluded inbound ports": (
        annotated("traffic.sidecar.istio.io/excludeInboundPorts", "8080"), "excludeInboundPorts",
    ),
    "excluded outbound ports": (
        annotated("traffic.sidecar.istio.io/excludeOutboundPorts", "443"), "excludeOutboundPorts",
    ),
    "excluded addresses": (
        annotated("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/8"), "IPRanges",
    ),
    "the sidecar's configuration": (
        annotated("proxy.istio.io/config", "{}"), "proxy.istio.io/config",
    ),
    "another template": (
        annotated("inject.istio.io/templates", "evil"), "inject.istio.io/templates",
    ),
    "the sidecar's image in a CronJob": (
        annotated("sidecar.istio.io/proxyImage", ELSEWHERE, cron_job), "proxyImage",
    ),
    "the host of another environment": (
        gateway("stage.slipway.localhost"), "stage.slipway.localhost is not of the namespace dev",
    ),
    "another revision of the mesh": (
        labelled("istio.io/rev", "evil"), "label istio.io/rev changes",
    ),
    "out of the mesh by a label": (
        labelled("istio.io/dataplane-mode", "none"), "label istio.io/dataplane-mode changes",
    ),
    "a volume of another registry": (with_volume(ELSEWHERE), "the volume mounted is from an image"),
    "a volume of a tag": (with_volume(f"{REGISTRY}proxy:1"), "the volume mounted is from an image"),
    "a route at another environment's gateway, written as before": (
        istio("VirtualService", hosts=["dev.slipway.localhost"], gateways=["public.stage"]),
        "the gateway public.stage is of another namespace",
    ),
    "a route at another environment's gateway, by its full name": (
        istio("VirtualService", hosts=["dev.slipway.localhost"],
              gateways=["public.stage.svc.cluster.local"]),
        "the gateway public.stage.svc.cluster.local is of another namespace",
    ),
    "a service with a dot behind it": (
        istio("ServiceEntry", hosts=["proxy.stage.svc.cluster.local."], exportTo=["."]),
        "takes the place of a Service",
    ),
    "a service in upper case": (
        istio("ServiceEntry", hosts=["PROXY.stage.SVC.cluster.local"], exportTo=["."]),
        "takes the place of a Service",
    ),
    "all services": (
        istio("ServiceEntry", hosts=["*.cluster.local"], exportTo=["."]),
        "takes the place of a Service",
    ),
    "a host in upper case": (gateway("Stage.slipway.localhost"), "is not of the namespace dev"),
    "a host with a dot behind it": (gateway("stage.slipway.localhost."), "is not of the namespace"),
    "a host with a port": (gateway("stage.slipway.localhost:8080"), "is not of the namespace dev"),
    "every host": (gateway("*"), "the host * is not of the namespace dev"),
    "every host of every namespace": (gateway("*/*"), "the host */* is not of"),
    "a host that ends alike": (gateway("evildev.slipway.localhost"), "is not of the namespace"),
    "a host beside one's own": (gateway("a.dev.slipway.localhost", "prod.slipway.localhost"),
                                "prod.slipway.localhost is not of"),
    "a route of another environment's host": (
        istio("VirtualService", hosts=["stage.slipway.localhost"], gateways=["public"]),
        "stage.slipway.localhost is not of",
    ),
    "a route at another environment's gateway": (
        istio("VirtualService", hosts=["dev.slipway.localhost"], gateways=["stage/public"]),
        "the gateway stage/public is of another namespace",
    ),
    "a route of another environment's service": (
        istio("VirtualService", hosts=["proxy.stage.svc.cluster.local"], gateways=["mesh"]),
        "proxy.stage.svc.cluster.local is not of",
    ),
    "a service of another environment": (
        istio("ServiceEntry", hosts=["proxy.stage.svc.cluster.local"], exportTo=["."]),
        "takes the place of a Service",
    ),
    "a name for everybody": (
        istio("ServiceEntry", hosts=["api.example.org"], exportTo=["*"]), "must have exportTo",
    ),
    "a name for everybody unsaid": (
        istio("ServiceEntry", hosts=["api.example.org"]), "must have exportTo",
    ),
    "a listener for another host": (
        of_gateway_api("Gateway", listeners=[{"hostname": "stage.slipway.localhost"}]),
        "stage.slipway.localhost is not of",
    ),
    "a listener for every host": (of_gateway_api("Gateway", listeners=[{}]), "the host * is not"),
    "an HTTPRoute for another host": (
        of_gateway_api("HTTPRoute", hostnames=["prod.slipway.localhost"]), "is not of",
    ),
    "an HTTPRoute at another gateway": (
        of_gateway_api("HTTPRoute", parentRefs=[{"name": "stage", "namespace": "stage"}]),
        "the gateway stage/stage is of another namespace",
    ),
}  # fmt: skip
TAKEN: dict[str, Manifest] = {
    "an image of ours": deployment(),
    "the one machine's": deployment(f"127.0.0.1:5000/slipway/proxy{DIGEST}"),
    "the mesh's sidecar": with_sidecar(f"registry.test/istio/proxyv2{DIGEST}"),
    "a sidecar that the mesh fills in": with_sidecar("auto"),
    "a sidecar's size": annotated("sidecar.istio.io/proxyCPULimit", "500m"),
    "EKS Pod Identity": annotated(
        "traffic.sidecar.istio.io/excludeOutboundIPRanges", "169.254.170.23/32"
    ),
    "an annotation of nobody's": annotated("example.org/istio.io", "x"),
    "a host below one's own": gateway("beta.dev.slipway.localhost", "./api.dev.slipway.localhost"),
    "a wildcard below one's own": gateway("*.dev.slipway.localhost"),
    "a route of a service here": istio("VirtualService", hosts=["proxy"], gateways=["mesh"]),
    "a route by the full name": istio(
        "VirtualService", hosts=["proxy.dev.svc.cluster.local"], gateways=["dev/public", "mesh"]
    ),
    "a volume of ours": with_volume(IMAGE),
    "a pod without a sidecar": labelled("sidecar.istio.io/inject", "false"),
    "a gateway here": istio(
        "VirtualService",
        hosts=["dev.slipway.localhost"],
        gateways=["./public", "public", "public.dev.svc.cluster.local"],
    ),
    "a database of the company": istio("ServiceEntry", hosts=["db.corp.local"], exportTo=["."]),
    "a host outside": istio("ServiceEntry", hosts=["api.example.org"], exportTo=["."]),
    # Nothing but environments is held, so nobody locks out Argo CD.
    "an image of Argo CD": deployment("quay.io/argoproj/argocd:v3.5.7", namespace="kube-system"),
    "another team's namespace": gateway("stage.slipway.localhost", namespace="other"),
}


@pytest.mark.parametrize("name", TRIED)
def test_what_was_tried_is_refused_with_its_reason(guarded: ApiServer, name: str) -> None:
    one, said = TRIED[name]
    answer = refused(guarded, one)
    assert said in answer, answer or "it was admitted"
    assert "slipway-" in answer


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_meant_is_admitted(guarded: ApiServer, name: str) -> None:
    assert refused(guarded, TAKEN[name]) == ""


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everything_that_is_shipped_is_admitted(guarded: ApiServer, environment: str) -> None:
    kinds = {
        kind for versions in OF_ISTIO.values() for kinds in versions.values() for kind in kinds
    }
    kinds |= {"Deployment", "CronJob", "Job"}
    images = set()
    for release in releases(environment):
        for one in manifests(render(release)):
            if one["kind"] not in kinds:
                continue
            text = yaml.safe_dump(one)
            images |= {line for line in text.split() if "@sha256:" in line}
            for image in images:
                text = text.replace(image, IMAGE)
            assert refused(guarded, yaml.safe_load(text)) == "", one["metadata"]
    assert images


def test_an_ephemeral_container_is_held_as_well(guarded: ApiServer) -> None:
    """`kubectl debug` with a foreign image would have the pod's identity in the mesh."""
    one = pod(IMAGE)
    one["metadata"]["name"] = "debugged"
    applied(guarded, one)
    answer = guarded.kubectl(
        "debug", "-n", "dev", "debugged", f"--image={ELSEWHERE}", "--profile=restricted"
    )
    assert "is from no allowed registry" in answer.stderr


def test_what_was_admitted_before_may_end(guarded: ApiServer) -> None:
    """Found: the pod of a Job whose registry is allowed no more kept its finalizer for ever."""
    one = pod(IMAGE)
    one["metadata"] |= {"name": "finished", "finalizers": ["example.org/counted"]}
    applied(guarded, one)
    elsewhere = PARAMETERS["data"] | {"registries": "elsewhere.test/"}
    try:
        applied(guarded, PARAMETERS | {"data": elsewhere})
        until(lambda: refused(guarded, deployment()) != "")
        patch = ("patch", "pod", "finished", "-n", "dev", "--type=merge", "-p")
        answer = guarded.kubectl(*patch, '{"metadata": {"finalizers": null}}')
        assert answer.returncode == 0, answer.stderr
        answer = guarded.kubectl(*patch, '{"spec": {"activeDeadlineSeconds": 9}}')
        assert "is from no allowed registry" in answer.stderr
    finally:
        applied(guarded, PARAMETERS)
        until(lambda: refused(guarded, deployment()) == "")


@pytest.mark.parametrize("registries", ["", " ", " , ,", REGISTRY.removesuffix("/")])
def test_without_a_prefix_that_ends_nothing_is_allowed(guarded: ApiServer, registries: str) -> None:
    """A name without its end would allow registry.test/slipway-evil too."""
    try:
        applied(guarded, PARAMETERS | {"data": PARAMETERS["data"] | {"registries": registries}})
        until(lambda: "is from no allowed registry" in refused(guarded, deployment()))
    finally:
        applied(guarded, PARAMETERS)
        until(lambda: refused(guarded, deployment()) == "")
