"""What is asked of an environment's services, read out of its values. Pure.

A service with public paths is asked at the gateway, on each of the environment's hosts; one
without from a pod of each of its callers, which has their identity and their network. A model is
asked with the samples of its ``model.json``, at the gateway where a proxy serves it by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from release import yaml_loader
from release.errors import ReleaseError
from release.values import model_map, tree
from release.values.layout import Row
from release.values.merge import Values, laid_over
from release.values.references import Model
from release.values.tree import Snapshot

_GATEWAY = "gateway"
"""The caller's name that stands for the ingress gateway in routing's values."""


@dataclass(frozen=True)
class Check:
    """A service's ``check`` in its values; empty fields leave the choice to the verifier."""

    enabled: bool = True
    path: str = ""
    status: tuple[int, ...] = ()
    credential: str = ""
    """``secret/key`` of a Secret of the environment."""


@dataclass(frozen=True)
class AtGateway:
    """A request at an environment's host, from outside."""

    release: str
    host: str
    path: str
    check: Check

    def __str__(self) -> str:
        return f"{self.host}{self.path}"


@dataclass(frozen=True)
class FromCaller:
    """A request to a service's own address, from a pod of one of its callers."""

    release: str
    caller: str
    port: int
    path: str
    check: Check

    def __str__(self) -> str:
        return f"http://{self.release}:{self.port}{self.path} as {self.caller}"


@dataclass(frozen=True)
class OfModel:
    """A prediction: at a host under the proxy's name for the model, or from a caller's pod."""

    release: str
    """Who is blamed: the proxy that serves it by this name, or the model's server."""
    model: str
    """Its name at the address that is asked."""
    manifest: str
    """Its name in its own ``model.json``."""
    server: str
    """The release that holds the model and its samples; empty where none is known."""
    ask: AtGateway | FromCaller

    def __str__(self) -> str:
        return f"model {self.model} at {self.ask}"


Question = AtGateway | FromCaller | OfModel


@dataclass(frozen=True)
class Plan:
    """All of it for one environment."""

    environment: str
    gateway: str
    """URL of the gateway with ``{host}`` in it."""
    questions: tuple[Question, ...]
    addresses: tuple[str, ...]
    """Releases that somebody calls: their Services need ready addresses."""
    notes: tuple[str, ...] = ()
    routing: Values = field(default_factory=dict)
    """Values of the release that routes."""
    routing_release: str = ""
    without_pods: frozenset[str] = frozenset()
    """Releases that Git lets have no pods: `replicas: 0`, or an autoscaler that wakes them."""


def read(at: Snapshot, environment: str, services: Sequence[str] = (), gateway: str = "") -> Plan:
    """What to ask of an environment (or of some of its releases) as Git has it.

    ``gateway`` replaces the address that the values name.
    """
    charts = tree.releases(at, environment)
    routing = next((name for name, chart in charts.items() if chart == "routing"), None)
    rows = {row.name: row for row in tree.rows(at, environment)}
    routes: Values = values_of(at, rows[routing]) if routing is not None else {}
    deployed = {
        name: values_of(at, rows[name])
        for name, chart in charts.items()
        if chart == "service" and _is_deployed(at, environment, name)
    }
    models = {
        name: list(model_map.read(at, environment, name).values())
        for name in tree.model_releases(at, environment)
        if name in deployed
    }
    hosts = [host for host in routes.get("hosts") or () if "*" not in host]
    made = _Planner(routes.get("services") or {}, deployed, hosts)
    questions = [*made.of_services(), *made.of_models(models)]
    if services:
        questions = [one for one in questions if one.release in services]
    shared = (routes.get("platform") or {}).get("gateway") or {}
    named: str = gateway or shared.get("url") or "https://{host}"
    wanted = [name for name in made.called() if not services or name in services]
    return Plan(
        environment, named, tuple(dict.fromkeys(questions)), tuple(wanted), tuple(made.notes),
        routes, routing or "",
        frozenset(name for name, values in deployed.items() if may_have_no_pods(values)),
    )  # fmt: skip


def hosts_taken_out(before: Snapshot, at: Snapshot, environment: str) -> list[str]:
    """Hosts that an environment answered to and does not any more."""
    now = set(read(at, environment).routing.get("hosts") or ())
    try:
        then = read(before, environment).routing.get("hosts") or ()
    except ReleaseError:
        return []  # there was no such environment, or nothing that can be read
    return [host for host in then if host not in now]


def values_of(at: Snapshot, row: Row) -> Values:
    """A release's values as Helm merges them, in the order in which its row names the files."""
    merged: Values = {}
    for path in row.files:
        content = yaml_loader.load(at.read(path) or b"") or {}
        merged = laid_over(merged, content)
    return merged


@dataclass
class _Planner:
    routes: Mapping[str, Values | None]
    deployed: Mapping[str, Values]
    hosts: Sequence[str]

    def __post_init__(self) -> None:
        self.notes: list[str] = []

    def called(self) -> list[str]:
        """Deployed releases that somebody may call, so that their Service must lead somewhere."""
        return [
            name
            for name, values in self.deployed.items()
            if (_callers(values) or self._public(name))
            and _has_service(values)
            and _replicas(values) != 0
        ]

    def of_services(self) -> Iterator[Question]:
        for name in self.called():
            check = check_of(self.deployed[name])
            if not check.enabled:
                self.notes.append(f"{name} is not asked: its check is not enabled.")
            elif paths := self._public(name):
                for host in self.hosts:
                    yield AtGateway(name, host, check.path or paths[0], check)
            elif not (asked := list(self._from_callers(name, check))):
                self.notes.append(f"{name} is not asked: no release with pods may call it.")
            else:
                yield from asked

    def of_models(self, models: Mapping[str, Sequence[Model]]) -> Iterator[Question]:
        """Every name that a public proxy serves, then the models that none serves."""
        by_name = {
            model.name: release
            for release, held in reversed(list(models.items()))
            for model in held
        }
        seen = set()
        for proxy in self.called():
            public = self._public(proxy)
            check = check_of(self.deployed[proxy])
            for name, remote in _backends(self.deployed[proxy], models) if check.enabled else ():
                path = f"/v2/models/{name}/infer"
                if not any(_covers(prefix, path) for prefix in public):
                    continue
                seen.add(remote)
                for host in self.hosts:
                    ask = AtGateway(proxy, host, path, check)
                    yield OfModel(proxy, name, remote, by_name.get(remote, ""), ask)
        for release, model in [(name, one) for name, held in models.items() for one in held]:
            if model.name in seen or release not in self.called():
                continue
            path = f"/v2/models/{model.name}/infer"
            for caller in self._from_callers(release, check_of(self.deployed[release])):
                inside = replace(caller, path=path)
                yield OfModel(release, model.name, model.name, release, inside)

    def _from_callers(self, name: str, check: Check) -> Iterator[FromCaller]:
        values = self.deployed[name]
        readiness = ((values.get("probes") or {}).get("readiness") or {}).get("path", "/readyz")
        for caller, limits in _callers(values).items():
            if caller == _GATEWAY or caller not in self.deployed:
                continue
            if self.deployed[caller].get("kind", "Deployment") != "Deployment":
                self.notes.append(f"{name} is not asked as {caller}: that has pods only at times.")
                continue
            allowed = [path.rstrip("*") for path in limits.get("paths") or ()]
            path = check.path or next(iter(allowed), readiness)
            yield FromCaller(name, caller, _port(values), path, check)

    def _public(self, name: str) -> list[str]:
        return list((self.routes.get(name) or {}).get("paths") or ()) if self.hosts else []


def check_of(values: Values) -> Check:
    """A service's ``check``."""
    given = values.get("check") or {}
    return Check(
        given.get("enabled", True), given.get("path", ""), tuple(given.get("status") or ()),
        given.get("credential", ""),
    )  # fmt: skip


def _callers(values: Values) -> dict[str, Values]:
    """Who may call a release, each with its limits; those that were removed are not in it."""
    return {
        name: limits if isinstance(limits, dict) else {}
        for name, limits in (values.get("callers") or {}).items()
        if limits not in (None, False)
    }


def _backends(values: Values, models: Mapping[str, Sequence[Model]]) -> Iterator[tuple[str, str]]:
    """Models that a proxy serves by name, each with its name at the backend.

    A server that is asked for its models has those that Git names for its release.
    """
    given = (values.get("env") or {}).get("PROXY_BACKENDS") or "{}"
    try:
        backends = json.loads(given) if isinstance(given, str) else given
        for name, backend in backends.items():
            if backend.get("models") == "discover":
                server = (urlsplit(backend.get("url") or "").hostname or "").split(".")[0]
                yield from ((one.name, one.name) for one in models.get(server, ()))
            elif backend.get("type") == "http":
                yield name, str(backend.get("model") or name)
    except (ValueError, AttributeError):
        return  # `release validate` says what is wrong with it, and the pod does not start


def _is_deployed(at: Snapshot, environment: str, release: str) -> bool:
    has_image = at.read(tree.image_file(environment, release)) is not None
    return has_image and tree.read_image(at, environment, release).deployed


def _has_service(values: Values) -> bool:
    kind = values.get("kind", "Deployment")
    return kind == "Deployment" and bool((values.get("service") or {}).get("enabled", True))


def _replicas(values: Values) -> int:
    """Pods that the values wish for; one where an autoscaler or a default decides."""
    given = values.get("replicas")
    return 1 if given is None else int(given)


def may_have_no_pods(values: Values) -> bool:
    """Whether a release's Deployment may be scaled to zero."""
    keda = values.get("keda") or {}
    return _replicas(values) == 0 or (bool(keda.get("enabled")) and not keda.get("minReplicas", 0))


def _port(values: Values) -> int:
    return int((values.get("ports") or {}).get("http", 8080))


def _covers(prefix: str, path: str) -> bool:
    return prefix in ("/", path) or path.startswith(prefix.rstrip("/") + "/")
