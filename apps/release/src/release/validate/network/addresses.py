"""Addresses in values: each leads to a Service and a port, and the caller may use it."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from release import yaml_loader
from release.render import merged_values
from release.render.helm import Release
from release.validate.environment import Environment
from release.validate.findings import Finding, at_value
from release.validate.network import connections, reach
from release.validate.network.connections import Connections

_URL = re.compile(r"(?<![\w.+-])([a-z][a-z0-9+.-]*)://([^\s\"'<>,/?#]+)", re.I)
_HOST_AND_PORT = re.compile(r"^([A-Za-z](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):(\d{2,5})$")
# Signs of Korean and Japanese keyboards, and blanks that nobody sees, in the place of ASCII.
_LOOKALIKE = re.compile("[\uff01-\uff5e\u3000\u3002\u00a0\u200b-\u200f\u2060\ufeff\u2018-\u201d]")
_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]*[:\uff1a][/\uff0f]{2}[^\s\"'<>,/?#\uff0f]*", re.I)
_WIDE_PORT = re.compile(r"[A-Za-z0-9.-]+[:\uff1a][0-9\uff10-\uff19]{2,5}")
# Schemes that name no host of the network.
_NO_HOSTS = {"s3", "file", "arn", "oci", "models", "spiffe"}
_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443, "redis": 6379, "rediss": 6379,
          "nats": 4222, "tls": 4222, "grpc": 80, "grpcs": 443}  # fmt: skip
_WITH_TLS = {"https", "wss", "rediss", "tls", "grpcs"}
# Names of a Service's port whose protocol has none (Kubernetes' and Istio's `name[-suffix]`).
_PLAIN = ("http", "http2", "grpc", "ws")
# Values that other programs than the release's own pods connect to.
_ASKED_BY_OTHERS = {"keda", "monitoring", "serviceAccount"}


@dataclass(frozen=True)
class Address:
    """A host and a port, as a value names them; without a port None."""

    host: str
    port: int | None
    tls: bool = field(default=False, compare=False)
    """Whether its scheme asks for TLS."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def service(self) -> str:
        """The Service's name, if it is one."""
        return self.host.split(".", 1)[0]

    def namespace(self, own: str) -> str | None:
        """The namespace that the host names, ``own`` where it names none; None for another's host.

        In the cluster are: a name without a dot, and ``name.namespace`` with or without ``.svc``
        and the cluster's domain behind it.
        """
        parts = self.host.split(".")
        if len(parts) == 1:
            return own
        if len(parts) == 2:
            return parts[1]
        return parts[1] if parts[2] == "svc" else None


def in_text(text: str) -> list[Address]:
    """The addresses in a string: those of URLs, or the string itself as ``host:port``."""
    alone = _HOST_AND_PORT.match(text)
    if alone:
        return _kept(alone[1], int(alone[2]))
    found = []
    for scheme, authority in _URL.findall(text):
        if scheme.lower() in _NO_HOSTS:
            continue
        try:
            parts = urlsplit(f"{scheme}://{authority}")
            host, port = parts.hostname or "", parts.port or _PORTS.get(scheme.lower())
        except ValueError:
            continue
        found += _kept(host, port, scheme.lower() in _WITH_TLS)
    return found


def written_meant(text: str) -> tuple[str, str] | None:
    """An address with full-width or invisible signs, and what is meant; None where there is none.

    Texts for people may have them: only a URL's scheme and host, or all of a ``host:port``, count.
    """
    alone = [text] if _WIDE_PORT.fullmatch(text) else []
    for one in (*alone, *_AUTHORITY.findall(text)):
        if _LOOKALIKE.search(one):
            plain = unicodedata.normalize("NFKC", one.replace("\u3002", "."))
            return one, re.sub("[\u200b-\u200f\u2060\ufeff\u2018-\u201d ]", "", plain)
    return None


def _kept(host: str, port: int | None, tls: bool = False) -> list[Address]:
    """None for what is no name of a Service: addresses of the pod itself and numbers."""
    try:
        ip_address(host)
        return []
    except ValueError:
        pass
    if not host or host == "localhost" or "*" in host:
        return []
    return [Address(host.lower().rstrip("."), port, tls)]


@cache
def stores(root: Path) -> dict[str, set[str]]:
    """Services of other namespaces that the one-machine cluster's manifests make, by namespace.

    Where they run elsewhere nothing is known of them: only a near miss is a finding.
    """
    found: dict[str, set[str]] = {}
    for path in sorted((root / "cluster" / "manifests").glob("*.yaml")):
        filled_in = re.sub(r"\$\{\w+\}", "", path.read_text())
        for text in re.split(r"^---$", filled_in, flags=re.M):
            try:
                document = yaml_loader.load(text)
            except yaml.YAMLError:
                continue  # it has a place for more than a word
            if isinstance(document, dict) and document.get("kind") == "Service":
                metadata = document["metadata"]
                found.setdefault(metadata.get("namespace", ""), set()).add(metadata["name"])
    return found


def findings(environment: Environment) -> Iterator[Finding]:
    """Of every value of every release that runs pods."""
    known = reach.namespaces(environment)
    connected = connections.of(environment)
    for release in environment.documents:
        if release.chart != "service":
            continue
        for path, text in merged_values.strings(
            merged_values.without_platform(merged_values.of_files(environment.root, release))
        ):
            meant = written_meant(text)
            if meant is not None:
                yield at_value(
                    environment.root, release, ".".join(path),
                    f"has a sign in {meant[0]!r} that only looks like one of an address",
                    f"write {meant[1]}", path,
                )  # fmt: skip
                continue
            for address in in_text(text):
                yield from _of_address(environment, connected[release.name], path, address, known)


def services(environment: Environment, release: Release) -> set[str]:
    """The Services of the environment that a release's values have an address of."""
    every = merged_values.without_platform(merged_values.of_files(environment.root, release))
    return {
        address.service
        for path, text in merged_values.strings(every)
        if path[:1] and path[0] not in _ASKED_BY_OTHERS
        for address in in_text(text)
        if address.namespace(release.namespace) == release.namespace
    }


def _of_address(
    environment: Environment,
    mine: Connections,
    path: tuple[str, ...],
    address: Address,
    known: set[str],
) -> Iterator[Finding]:
    release = mine.release

    def found(message: str, fix: str) -> Finding:
        where = ".".join(path)
        return at_value(environment.root, release, where, message, fix, path)

    namespace = address.namespace(release.namespace)
    if namespace is None or address.host in environment.external:
        return
    own = namespace == release.namespace
    if own and address.service in environment.unseen:
        return
    if own and address.service not in environment.services:
        near = difflib.get_close_matches(address.service, sorted(environment.services), n=1)
        others = environment.only_elsewhere(address.service)
        only = f", only of {' and '.join(others)}" if others else ""
        yield found(
            f"leads to {address}, and {address.service!r} is no Service of the environment"
            f"{only}",
            f"did you mean {near[0]}?" if near else f"use one of "
            f"{', '.join(sorted(environment.services)) or '(none)'}",
        )  # fmt: skip
        return
    if not own and namespace not in known:
        near = difflib.get_close_matches(namespace, sorted(known), n=1, cutoff=0.8)
        if near or ".svc" in address.host:
            yield found(
                f"leads to {address}, and {namespace!r} is no namespace that the "
                "environment knows",
                f"did you mean {near[0]}?" if near else "name it under meshNamespaces "
                f"of values/{environment.name}/environment.yaml and under platform.peers",
            )  # fmt: skip
        return
    if not own:
        there = stores(environment.root).get(namespace, set())
        near = difflib.get_close_matches(address.service, sorted(there), n=1)
        if near and address.service not in there:
            yield found(
                f"leads to {address}, and {namespace} has the Services {', '.join(sorted(there))}",
                f"did you mean {near[0]}.{namespace}?",
            )
            return
    if own:
        listed = environment.services[address.service]["spec"]["ports"]
        ports = {port["port"]: port.get("name", "") for port in listed}
        if address.port is not None and address.port not in ports:
            yield found(
                f"leads to {address}, and the Service {address.service} has the ports "
                f"{', '.join(map(str, sorted(ports)))}", "name one of those",
            )  # fmt: skip
            return
        if address.tls and ports.get(address.port or 0, "").split("-")[0] in _PLAIN:
            yield found(
                f"asks {address} for TLS, and the port {ports[address.port or 0]!r} of the Service "
                f"{address.service} has none", "write it without: the mesh encrypts by itself",
            )  # fmt: skip
            return
    if path and path[0] in _ASKED_BY_OTHERS:
        return
    if own and address.service in mine.calls:
        return  # what the callee lacks is found there
    refused = reach.refusal(environment, release, address.service, namespace, address.port)
    if refused is not None:
        message, fix = refused
        yield found(f"leads to {address}, and {message}", fix)
