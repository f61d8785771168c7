# ruff: noqa: E501 - one way stands on one line
"""The ways: two of each kind, one of the two by somebody who had not seen the code (``stranger``).

The stranger wrote them from the list of kinds alone. Four had to be sharpened to hurt anybody: this
system has a NetworkPolicy that denies everything and an AuthorizationPolicy that allows nothing as
a rule, a second route for a host comes after the first, and its Redis has no password.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flow import site as sites
from tests.breakage.edits import Edit, copied, more, removed, replaced, scalar, setting

ENVIRONMENT = "dev"
HOST = "dev.slipway.localhost"
OTHER = '{"digits": {"type": "http", "url": "%s"%s}}'
NOBODY = "sha256:" + "d" * 64

Arrangement = Callable[[sites.Site], AbstractContextManager[None]]
"""What is done beforehand and undone afterwards."""


@dataclass(frozen=True)
class Way:
    """One way: a commit (``edit``), or changes in the cluster, or both."""

    kind: str
    what: str
    edit: Edit | None = None
    kubectl: tuple[tuple[str, ...], ...] = ()
    """Commands, run one after the other in ``namespace``."""
    objects: tuple[str, ...] = ()
    """Objects to be kept and put back, as ``kind/name``."""
    made: str = ""
    """A manifest to be applied, and deleted afterwards."""
    arranged: Arrangement | None = None
    namespace: str = ENVIRONMENT
    stranger: bool = False
    remark: str = ""


def pods_of(release: str) -> tuple[str, ...]:
    """The command that deletes a release's pods, as a drain does."""
    return ("delete", "pod", "--wait=false", "-l", f"app.kubernetes.io/instance={release}")


def patch(target: str, patch: object) -> tuple[str, ...]:
    """The command that merges something into an object."""
    return ("patch", target, "--type=merge", "-p", json.dumps(patch))


@contextlib.contextmanager
def without_the_model(site: sites.Site) -> Iterator[None]:
    """The objects of the version that is served are not in the bucket."""
    client = site.s3()
    listed = client.list_objects_v2(Bucket="models", Prefix="digits/")["Contents"]
    kept = {
        one["Key"]: client.get_object(Bucket="models", Key=one["Key"])["Body"].read()
        for one in listed
    }
    try:
        for key in kept:
            client.delete_object(Bucket="models", Key=key)
        yield
    finally:
        for key, body in kept.items():
            client.put_object(Bucket="models", Key=key, Body=body)


@contextlib.contextmanager
def without_s3(site: sites.Site) -> Iterator[None]:
    """The S3 server is stopped."""
    place = ("-n", "slipway-system")
    site.kubectl.run("scale", "deployment/s3", "--replicas=0", *place)
    try:
        site.kubectl.run("wait", "--for=delete", "pod", "-l", "app=s3", *place, "--timeout=60s")
        yield
    finally:
        site.kubectl.run("scale", "deployment/s3", "--replicas=1", *place)
        site.kubectl.wait_for_rollout("deployment/s3", "slipway-system", 90)


@contextlib.contextmanager
def with_an_expired_certificate(site: sites.Site) -> Iterator[None]:
    """The gateway's Secret holds one that expired yesterday."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=91)).not_valid_after(now - timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    data = {
        "tls.crt": base64.b64encode(built.public_bytes(serialization.Encoding.PEM)).decode(),
        "tls.key": base64.b64encode(private).decode(),
    }
    metadata = {"name": "expired", "namespace": "istio-ingress"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "kubernetes.io/tls",
    }
    site.kubectl.apply(yaml.safe_dump({**secret, "data": data}))
    try:
        yield
    finally:
        site.kubectl.run("delete", "secret", "expired", "-n", "istio-ingress")


DENY_ALL = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: emergency, namespace: dev}
spec: {action: DENY, rules: [{}]}
"""
SECOND_ROUTE = f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: another, namespace: dev}}
spec:
  hosts: [{HOST}]
  gateways: [public]
  http: [{{route: [{{destination: {{host: nobody, port: {{number: 8080}}}}}}]}}]
"""
NOBODY_CALLS = {
    "spec": {"rules": [{"from": [{"source": {"principals": ["cluster.local/ns/dev/sa/nobody"]}}]}]}
}
WRONG_KEY = {"stringData": {"AWS_SECRET_ACCESS_KEY": "rotated-and-not-told"}}
TO_NOBODY = json.dumps(
    [{"op": "replace", "path": "/spec/http/0/route/0/destination/host", "value": "nobody"}]
)
NOT_ENFORCED = "the one machine enforces no NetworkPolicy, so nothing can be asked about it"

WAYS = (
    Way("address", "one letter of a backend's host", setting("proxy", "PROXY_BACKENDS", OTHER % ("http://inferenc:8080", ""))),
    Way("address", "a backend's scheme is https", setting("proxy", "PROXY_BACKENDS", OTHER % ("https://inference:8080", "")), stranger=True),
    Way("service", "a Service is deleted", None, (("delete", "service/inference"),), ("service/inference",)),
    Way("service", "the files of inference are removed, the proxy still calls it", removed(*(f"values/dev/inference{end}" for end in (".yaml", ".image.yaml", ".models.yaml"))), stranger=True),
    Way("model", "a version that nobody published", scalar("values/dev/inference.models.yaml", version="99", uri="s3://models/digits/99")),
    Way("model", "the served version's objects are deleted, then the pod", None, (pods_of("inference"),), arranged=without_the_model, stranger=True),
    Way("certificate", "a tlsSecret that is not there", more("values/dev/routing.yaml", "gateway: {tlsSecret: nobody}\n")),
    Way("certificate", "the gateway's certificate has expired", more("values/dev/routing.yaml", "gateway: {tlsSecret: expired}\n"), arranged=with_an_expired_certificate, stranger=True),
    Way("quota", "room for three pods", replaced("values/dev/environment.yaml", "pods: 30", "pods: 3")),
    Way("quota", "the quota is lowered below what runs, then a pod goes", None, (patch("resourcequota/environment", {"spec": {"hard": {"pods": "3"}}}), pods_of("inference")), ("resourcequota/environment",), stranger=True),
    Way("network policy", "the proxy's row is gone", replaced("values/services/inference/service.yaml", "  proxy: {ports: [8080/TCP]}\n", ""), remark=NOT_ENFORCED),
    Way("network policy", "somebody lets nobody in to the model server", None, (patch("networkpolicy/inference-connections", {"spec": {"ingress": []}}),), ("networkpolicy/inference-connections",), stranger=True, remark=NOT_ENFORCED),
    Way("authorization", "a policy that knows no caller", None, (patch("authorizationpolicy/inference", NOBODY_CALLS),), ("authorizationpolicy/inference",)),
    Way("authorization", "somebody's policy denies everything", made=DENY_ALL, stranger=True),
    Way("route", "the VirtualService is deleted", None, (("delete", "virtualservice/public"),), ("virtualservice/public",)),
    Way("route", "somebody's route leads nowhere", None, (("patch", "virtualservice/public", "--type=json", "-p", TO_NOBODY),), ("virtualservice/public",), stranger=True),
    Way("image", "a digest that is in no registry", scalar("values/dev/proxy.image.yaml", digest=NOBODY)),
    Way("image", "the proxy's image is the model server's", copied("values/dev/inference.image.yaml", "values/dev/proxy.image.yaml"), stranger=True),
    Way("secret", "the Secret is deleted, and a pod", None, (("delete", "secret/s3-credentials"), pods_of("proxy")), ("secret/s3-credentials",)),
    Way("secret", "the Secret holds a wrong key, and the pods restart", None, (patch("secret/s3-credentials", WRONG_KEY), pods_of("inference"), pods_of("proxy")), ("secret/s3-credentials",), stranger=True),
    Way("proxy and worker", "the worker has other backends", setting("worker", "PROXY_BACKENDS", OTHER % ("http://inference:8080", ', "timeout_seconds": 1'))),
    Way("proxy and worker", "the worker has another Redis database", replaced("values/dev/worker.yaml", ":6379/0", ":6379/7"), stranger=True),
    Way("pods", "somebody scales the proxy to zero", None, (("scale", "deployment/proxy", "--replicas=0"),), ("deployment/proxy",)),
    Way("pods", "a nodeSelector that no node has", more("values/dev/proxy.yaml", "nodeSelector: {disk: nobody}\n"), stranger=True),
)  # fmt: skip

MORE = (
    Way("pods", "somebody scales the gateway to zero", None, (("scale", "deployment/ingressgateway", "--replicas=0"),), ("deployment/ingressgateway",), namespace="istio-ingress"),
    Way("image", "another image in the Deployment", None, (("set", "image", "deployment/proxy", f"proxy=127.0.0.1:5000/slipway/nobody@{NOBODY}"),), ("deployment/proxy",)),
    Way("certificate", "authorities in a file that is not there", setting("proxy", "PROXY_CA_FILE", "/etc/nobody.pem")),
    Way("authorization", "the gateway may ask /v1 alone", replaced("values/services/proxy/service.yaml", "gateway: {notPaths: [/metrics, /livez, /readyz]}", "gateway: {paths: [/v1/*]}")),
    Way("route", "another host", replaced("values/dev/routing.yaml", HOST, "dve.slipway.localhost")),
    Way("secret", "a Secret of another name", more("values/dev/proxy.yaml", "envFromSecrets: {s3-creds: true}\n")),
    Way("route", "a second route for the host leads nowhere", made=SECOND_ROUTE, remark="hurts nobody: the older route wins", stranger=True),
    Way("store", "S3 is down while pods start", None, (pods_of("inference"),), arranged=without_s3),
)  # fmt: skip
"""Beyond the two of each kind: what an earlier run left open."""
