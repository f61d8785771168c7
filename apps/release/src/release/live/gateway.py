"""Whether anybody gets in: the ingress gateway's pods, and the certificate that it presents."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from release.cluster.client import Cluster, ForbiddenError, Object
from release.diagnosis.causes import Cause
from release.errors import NotFoundError

# As charts/routing has them where values say nothing.
_NAMESPACE = "istio-ingress"
_SELECTOR: Mapping[str, str] = {"istio": "ingressgateway"}
SOON = timedelta(days=7)


def causes(cluster: Cluster, routing: Mapping[str, Any], now: datetime) -> list[Cause]:
    """What keeps users out of an environment, by its values of the chart `routing`.

    What this identity may not read is left out.
    """
    return [*of_its_pods(cluster, routing), *of_its_certificate(cluster, routing, now)]


def of_its_pods(cluster: Cluster, routing: Mapping[str, Any]) -> list[Cause]:
    """That no pod of the gateway is ready, where an environment has hosts."""
    if not routing.get("hosts"):
        return []
    selector = _shared(routing).get("selector") or _SELECTOR
    labels = ",".join(f"{name}={value}" for name, value in selector.items())
    try:
        pods = cluster.list(f"/api/v1/namespaces/{_namespace(routing)}/pods", selector=labels)
    except ForbiddenError:
        return []
    return list(of_pods(pods, _namespace(routing), labels))


def of_its_certificate(cluster: Cluster, routing: Mapping[str, Any], now: datetime) -> list[Cause]:
    """What is wrong with the gateway's certificate, where `gateway.tlsSecret` names one."""
    hosts = [str(host) for host in routing.get("hosts") or ()]
    name = (routing.get("gateway") or {}).get("tlsSecret")
    if not hosts or not name:
        return []
    namespace = _namespace(routing)
    try:
        secret = cluster.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
    except ForbiddenError:
        return []
    except NotFoundError:
        fix = f"make it in {namespace}, or correct `gateway.tlsSecret` in the values of routing"
        text = f"there is no Secret {name} in {namespace}: the gateway has no certificate"
        return [Cause("certificate", text, final=True, fix=fix)]
    return list(of_certificate(secret, hosts, now))


def _namespace(routing: Mapping[str, Any]) -> str:
    return str(_shared(routing).get("namespace") or _NAMESPACE)


def _shared(routing: Mapping[str, Any]) -> Mapping[str, Any]:
    """The gateway that all environments share, as the platform's values describe it."""
    shared: Mapping[str, Any] = (routing.get("platform") or {}).get("gateway") or {}
    return shared


def of_pods(pods: Sequence[Object], namespace: str, labels: str) -> Iterator[Cause]:
    """One cause where no pod of the gateway is ready."""
    for pod in pods:
        conditions = pod.get("status", {}).get("conditions") or ()
        if pod["metadata"].get("deletionTimestamp"):
            continue
        if any(one["type"] == "Ready" and one["status"] == "True" for one in conditions):
            return
    yield Cause(
        "gateway",
        f"no pod of the ingress gateway is ready ({namespace}, {labels}): no user gets in",
        final=True,
        fix=f"see `kubectl --namespace {namespace} get deployments,pods --selector {labels}`",
    )


def of_certificate(secret: Object, hosts: Sequence[str], now: datetime) -> Iterator[Cause]:
    """What is wrong with the certificate that a TLS Secret holds, for these hosts."""
    name = f"{secret['metadata']['namespace']}/{secret['metadata']['name']}"
    fix = f"renew it, and put certificate and key into the Secret {name}"
    data = secret.get("data") or {}
    absent = [key for key in ("tls.crt", "tls.key") if not data.get(key)]
    if absent:
        text = f"the Secret {name} has no {' and no '.join(absent)}"
        yield Cause("certificate", text, final=True, fix=fix)
        return
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
    except ValueError as error:
        yield Cause("certificate", f"{name}: tls.crt cannot be read: {error}", final=True, fix=fix)
        return
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= ends:
        yield Cause("certificate", f"{name}: expired at {_at(ends)}", final=True, fix=fix)
    elif now < begins:
        yield Cause("certificate", f"{name}: not valid before {_at(begins)}", final=True, fix=fix)
    elif now + SOON >= ends:
        yield Cause("certificate", f"{name}: expires at {_at(ends)}", fix=fix)
    names = _names(certificate)
    if uncovered := [host for host in hosts if not any(_covers(one, host) for one in names)]:
        text = f"{name}: is for {', '.join(names) or 'no host'}, not for {', '.join(uncovered)}"
        yield Cause("certificate", text, final=True, fix=fix)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return found.value.get_values_for_type(x509.DNSName)


def _covers(name: str, host: str) -> bool:
    """Whether a certificate's name is that of a host: a * stands for one label (RFC 6125)."""
    if name.lower() == host.lower():
        return True
    first, _, rest = host.partition(".")
    return name.startswith("*.") and bool(first) and name[2:].lower() == rest.lower()


def _at(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")
