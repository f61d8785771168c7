"""Names in rendered objects that must point to something: hosts, subsets, ports, Gateways."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from release.render.helm import Manifest
from release.validate.environment import (
    Environment,
    containers,
    pod_template,
    pod_templates,
    selected,
)
from release.validate.findings import Context, Finding, at_value
from release.values import layout, tree
from release.values.tree import IMAGE_SUFFIX, MODEL_SUFFIX

# The sidecar's agent, which is in no pod template: Istio puts it there.
SIDECAR_METRICS = 15020


def findings(environment: Environment) -> Iterator[Finding]:
    """Of every object of an environment."""
    for release, manifests in environment.documents.items():
        for document in manifests:
            context = Context(environment.root, release, document)
            yield from _images(context)
            yield from _ports(context)
            if document["kind"] == "Service":
                yield from _service(context, environment)
            elif document["kind"] == "VirtualService":
                yield from _routes(context, environment)
            elif document["kind"] == "HTTPRoute":
                yield from _http_route(context, environment)
            elif document["kind"] == "DestinationRule":
                host = document["spec"]["host"]
                yield from _host(context, host, environment, environment.external)


def _images(context: Context) -> Iterator[Finding]:
    """Digests decide what runs: a tag alone may mean something else tomorrow."""
    for _, container in containers(context.document):
        if "@sha256:" not in container.get("image", ""):
            yield context.finding(
                "image.digest", f"runs {container.get('image')!r}, which has no digest",
                "let `release image set` write it", ("image", "digest"),
            )  # fmt: skip


def _ports(context: Context) -> Iterator[Finding]:
    """Probes ask a port that the container listens on."""
    for where, container in containers(context.document):
        listening: set[int | str] = set()
        for port in container.get("ports", []):
            listening |= {port["containerPort"], port.get("name", "")}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            handler = container.get(probe, {})
            asked = next(
                (handler[k]["port"] for k in ("httpGet", "tcpSocket", "grpc") if k in handler), None
            )
            if asked is not None and asked not in listening:
                kind = probe.removesuffix("Probe")
                yield context.finding(
                    f"probes.{kind}", f"probes port {asked} of {where}, which is not among its "
                    f"ports ({', '.join(sorted(map(str, listening - {''})))})",
                    "set probes.port to one of ports", ("probes", "port"), ("ports",),
                )  # fmt: skip


def _service(context: Context, environment: Environment) -> Iterator[Finding]:
    """A Service's selector finds pods, and its ports are ports of theirs."""
    spec = context.document["spec"]
    selector = spec.get("selector")
    if not selector:
        return
    pods = [pod for pod in pod_templates(environment.everything) if selected(selector, pod)]
    if not pods:
        own = environment.documents[context.release]
        if any(pod_template(document) for document in own):
            yield context.finding(
                "service", f"selects no pods ({selector})", "make its labels those of a release"
            )
        else:
            yield _no_pods(context)
        return
    listening: set[int | str] = set()
    for pod in pods:
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                listening |= {port["containerPort"], port.get("name", "")}
    for port in spec.get("ports", []):
        target = port.get("targetPort", port["port"])
        if target not in listening and target != SIDECAR_METRICS:
            yield context.finding(
                "ports", f"leads to port {target}, on which none of its pods listens",
                "set ports so that Service and container agree", ("ports",),
            )  # fmt: skip


def _no_pods(context: Context) -> Finding:
    """Why the release has a Service and no pods: what makes it deployed is not there."""
    release = context.release
    absent = [path for path in release.missing if path.endswith(MODEL_SUFFIX)]
    no_image = [path for path in release.missing if path.endswith(IMAGE_SUFFIX)]
    if no_image:
        message = f"runs no pods: no file sets its image, {no_image[0]} is not there"
        fix = f"copy {IMAGE_SUFFIX} from another release with its four values empty"
        return at_value(context.root, release, "image", message, fix)
    message = "runs no pods: modelFetch.enabled is set and no file sets its models"
    place = absent[0] if absent else tree.models_file(release.environment, release.name)
    fix = (
        f"add {place} with `models: {{}}`, which `release model set` fills, or take "
        "modelFetch.enabled out"
    )
    return at_value(
        context.root, release, "models", message, fix, ("modelFetch", "enabled"), ("modelFetch",)
    )


def _routes(context: Context, environment: Environment) -> Iterator[Finding]:
    """Hosts, subsets, ports and gateways that a VirtualService names are there."""
    spec = context.document["spec"]
    gateways = {name for _, name in environment.gateways}
    for gateway in spec.get("gateways", []):
        if gateway != "mesh" and "/" not in gateway and gateway not in gateways:
            yield context.finding(
                "gateways",
                f"names no Gateway of the environment: {gateway}",
                f"use one of {', '.join(sorted(gateways)) or '(none)'}",
            )
    for route in spec.get("http", []):
        targets = [entry["destination"] for entry in route.get("route", [])]
        targets += [entry["destination"] for entry in route.get("mirrors", [])]
        targets += [route["mirror"]] if "mirror" in route else []
        for target in targets:
            host = target["host"]
            found = list(_host(context, host, environment, environment.external))
            yield from found
            if found:
                continue
            subset, subsets = target.get("subset"), environment.subsets.get(host, set())
            if subset is not None and subset not in subsets:
                near = difflib.get_close_matches(subset, sorted(subsets), n=1)
                yield context.finding(
                    "subset", f"sends to the subset {subset!r} of {host}, which no "
                    "DestinationRule has",
                    f"did you mean {near[0]!r}?" if near else "add the subset first",
                    ("services", host),
                )  # fmt: skip
            number = target.get("port", {}).get("number")
            yield from _port(context, host, number, environment.services)


def _http_route(context: Context, environment: Environment) -> Iterator[Finding]:
    """Services, ports and Gateways that an HTTPRoute names are there; other namespaces are seen
    only as far as the environment itself puts Gateways into them."""
    spec, namespace = context.document["spec"], context.release.namespace
    rules = spec.get("rules", [])
    filters = [one for rule in rules for one in rule.get("filters", [])]
    targets = [backend for rule in rules for backend in rule.get("backendRefs", [])]
    targets += [one["requestMirror"]["backendRef"] for one in filters if "requestMirror" in one]
    parents = spec.get("parentRefs", [])
    targets += [parent for parent in parents if parent.get("kind") == "Service"]
    for target in targets:
        if target.get("kind", "Service") != "Service" or (
            target.get("namespace", namespace) != namespace
        ):
            continue
        found = list(_host(context, target["name"], environment, set()))
        yield from found or _port(context, target["name"], target.get("port"), environment.services)
    for parent in parents:
        place = (parent.get("namespace", namespace), parent["name"])
        there = {name for folder, name in environment.gateways if folder == place[0]}
        seen = bool(there) or place[0] == namespace
        if parent.get("kind", "Gateway") == "Gateway" and seen and place[1] not in there:
            yield context.finding(
                "parentRefs",
                f"names no Gateway of the environment: {'/'.join(place)}",
                f"use one of {', '.join(sorted(there)) or '(none)'}",
            )


def _port(
    context: Context, host: str, number: int | None, services: Mapping[str, Manifest]
) -> Iterator[Finding]:
    """A port that a route names is one of its Service's."""
    service = services.get(host.split(".", 1)[0])
    if number is None or service is None:
        return
    ports = {port["port"] for port in service["spec"]["ports"]}
    if number not in ports:
        yield context.finding(
            "port", f"sends to port {number} of {host}, whose Service has "
            f"{', '.join(map(str, sorted(ports)))}", "name one of those", ("services", host),
        )  # fmt: skip


def _host(
    context: Context, host: str, environment: Environment, external: Sequence[str] | set[str]
) -> Iterator[Finding]:
    """A host is a Service of the environment or a ServiceEntry's; other namespaces are not seen.

    Every object that names it says the same, so that it is one finding.
    """
    name, *rest = host.split(".")
    elsewhere = bool(rest) and rest[0] not in ("svc", context.release.namespace)
    if host in external or name in environment.services or elsewhere or name in environment.unseen:
        return
    message = f"names the host {host!r}, which is no Service of the environment"
    near = difflib.get_close_matches(name, sorted(environment.services), n=1)
    fix = f"did you mean {near[0]!r}?" if near else "deploy the release, or delete the row"
    others = environment.only_elsewhere(name)
    if others:
        message += f", only of {' and '.join(others)}"
        fix = (
            f"move services.{name} to values/{others[0]}/, or add the release to "
            f"{layout.environment_file(environment.name)}"
        )
    yield at_value(
        context.root, context.release, "host", message, fix, ("services", host), ("services",)
    )
