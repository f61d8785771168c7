"""Everything that can be known to be wrong before it is committed.

Every environment and release is rendered with the Helm that Argo CD uses, checked against the
closed schemas of charts/schemas by kubeconform, and checked for what no schema can see: names
that point to nothing.
"""

from __future__ import annotations

import difflib
import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from release import holds, places, policy, programs, render, tree
from release.errors import BadValuesError, NotFoundError, ReleaseError
from release.git import CommitTree, Git
from release.places import Place
from release.render import Manifest, Release, Rendered
from release.tree import IMAGE_SUFFIX, MODEL_SUFFIX, RUNS_IMAGE_OF

SCHEMAS = "charts/schemas/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
# Read by libraries inside the services rather than by their settings.
_LIBRARY_VARIABLES = ("AWS_", "OTEL_", "OMP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
                      "PYTHON", "TZ", "MLFLOW_")  # fmt: skip
# Files below values/ that belong to an environment rather than to one of its releases.
_ENVIRONMENT_FILES = {"hold"}


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong: where, which key, what, and what to do about it."""

    file: str
    line: int
    key: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        where = str(Place(self.file, self.line))
        key = f"{self.key}: " if self.key else ""
        return f"{where}: {key}{self.message}" + (f" Fix: {self.fix}." if self.fix else "")


@dataclass(frozen=True)
class Report:
    """What was checked and what was found."""

    findings: Sequence[Finding]
    rendered: int
    manifests: int
    notes: Sequence[str] = ()


def validate(root: Path, only: Sequence[str] = (), base: str | None = None) -> Report:
    """Check a tree of files; ``only`` names environments, none means all.

    With ``base``, a commit of the clone that ``root`` is, changes to what is held there are found
    as well.

    Raises NotFoundError for a folder, environment or commit that is not there, or a program that
    is missing.
    """
    for folder in ("charts", "values", "argocd"):
        if not (root / folder).is_dir():
            raise NotFoundError(
                f"{root} has no folder {folder}.",
                fix="name the folder that has charts, values and argocd",
            )
    known = render.environments(root)
    for environment in only:
        if environment not in known:
            near = difflib.get_close_matches(environment, known, n=1)
            raise NotFoundError(
                f"Nobody deploys the environment {environment!r}: argocd/{environment}.yaml is "
                "not there.",
                fix=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}",
            )
    chosen = [environment for environment in known if not only or environment in only]
    findings: list[Finding] = [] if only else list(_tree_findings(root, known))
    if base is not None:
        findings += held_changes(Git(root), base, only, datetime.now(UTC))
    rows: list[Release] = []
    for environment in chosen:
        try:
            listed = render.releases(root, environment)
        except BadValuesError as error:
            findings.append(Finding(f"argocd/{environment}.yaml", 0, "", error.message, error.fix))
            continue
        findings += _listing_findings(root, environment, listed)
        rows += listed
    results = render.render_all(root, rows, placeholders=True)
    for result in results:
        if result.error:
            findings += _render_findings(root, result)
    good = [result for result in results if not result.error]
    documents = {result.release: result.manifests for result in good}
    findings += _conformance(root, good)
    settings, notes = _settings(root)
    allowed = _allowed_kinds(root)
    for environment in chosen:
        own = {r: d for r, d in documents.items() if r.environment == environment}
        findings += cross_checks(root, own, settings, allowed)
    return Report(sorted(set(findings)), len(rows), sum(map(len, documents.values())), notes)


def held_changes(git: Git, base: str, only: Sequence[str], now: datetime) -> Iterator[Finding]:
    """Changes since ``base`` of releases that are on hold there: a merge must not pass a hold.

    ``only`` names environments, none means all that ``base`` has.

    Raises NotFoundError when the clone has no such commit.
    """
    commit = git.resolve(base)
    if commit is None:
        raise NotFoundError(f"This clone has no commit {base!r}.", fix="fetch it first")
    at = CommitTree(git, commit)
    began = git.text("merge-base", commit, "HEAD")
    for environment in only or tree.environments(at):
        held = holds.read(at, environment)
        changed = git.text(
            "diff", "--name-only", "--no-renames", "-z", began, "--", f"values/{environment}"
        ).split("\0")
        for path in filter(None, changed):
            hold = holds.covering(held, tree.release_of(path), now)
            if hold is not None and path != tree.hold_file(environment):
                refused = holds.refuse(environment, tree.release_of(path), hold)
                yield Finding(path, 0, "", refused.message.rstrip("."), refused.fix)


def _tree_findings(root: Path, known: Sequence[str]) -> Iterator[Finding]:
    """Folders nobody deploys, and machine-owned files that cannot be read."""
    folders = {path.name for path in (root / "values").iterdir() if path.is_dir()} - {"base"}
    for name in sorted(folders - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"rename it to {near[0]}, or " if near else ""
        yield Finding(
            f"values/{name}", 0, "", f"nobody deploys the environment {name!r}",
            f"{hint}add argocd/{name}.yaml",
        )  # fmt: skip
    for name in sorted(set(known) - folders):
        yield Finding(
            f"argocd/{name}.yaml", 0, "", f"the environment {name!r} has no values",
            f"add values/{name}/",
        )  # fmt: skip
    for problem in policy.problems(_Folder(root)):
        yield Finding(policy.PATH, problem.line, problem.key, problem.message, problem.fix)


def _listing_findings(root: Path, environment: str, listed: Sequence[Release]) -> Iterator[Finding]:
    """Every release is listed, and every listed release exists."""
    argocd = f"argocd/{environment}.yaml"
    names = [release.name for release in listed]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Finding(argocd, 0, name, "is listed twice", "delete one of the rows")
    for path in sorted((root / "values" / environment).glob("*.yaml")):
        stem = path.name.split(".", 1)[0]
        if stem in names or stem in _ENVIRONMENT_FILES:
            continue
        near = difflib.get_close_matches(stem, names, n=1)
        yield Finding(
            f"values/{environment}/{path.name}", 0, stem,
            f"is an unknown release: {argocd} does not list it, so nothing reads this file",
            f"did you mean {near[0]}?" if near else f"add a row for it to {argocd}, or delete it",
        )  # fmt: skip
    for release in listed:
        machine = (IMAGE_SUFFIX, MODEL_SUFFIX)
        for absent in release.missing:
            if not absent.endswith(machine):
                yield Finding(
                    argocd, 0, release.name, f"is listed, but {absent} is not there",
                    f"write {absent}, or delete the row",
                )  # fmt: skip
    used = {path for release in listed for path in release.files}
    for path in sorted((root / "values" / environment).glob("*.yaml")):
        relative = f"values/{environment}/{path.name}"
        stem = path.name.split(".", 1)[0]
        if stem in names and relative not in used:
            yield Finding(
                relative, 0, "", "is read by nothing: the ApplicationSet names no such file",
                f"one of {stem}.yaml, {stem}{IMAGE_SUFFIX}, {stem}{MODEL_SUFFIX}",
            )  # fmt: skip


def _render_findings(root: Path, result: Rendered) -> Iterator[Finding]:
    """A refusal of Helm, brought back to the file and line that causes it."""
    release = result.release
    told = places.complaints(result.error, places.schema_of(root, release.folder))
    for complaint in told:
        place = places.place_of(root, release.files, complaint.path) or Place(
            release.files[-1] if release.files else release.folder
        )
        fix = (
            f"did you mean {complaint.suggestion!r}?"
            if complaint.suggestion
            else (f"see docs/reference/chart-{release.chart}.md")
        )
        yield Finding(
            place.file, place.line, ".".join(complaint.path),
            f"{complaint.problem} ({release})", fix.rstrip("."),
        )  # fmt: skip
    if not told:
        message = " ".join(result.error.split())
        file = release.files[-1] if release.files else f"argocd/{release.environment}.yaml"
        for candidate in release.files:  # YAML errors name the file themselves
            if candidate in message:
                file = candidate
        yield Finding(file, 0, "", f"{message} ({release})")


def _conformance(root: Path, rendered: Sequence[Rendered]) -> Iterator[Finding]:
    """kubeconform, strict, in one run over everything."""
    command = [
        programs.find("kubeconform"), "-strict", "-output", "json", "-schema-location", SCHEMAS,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="release-manifests-") as scratch:
        sources: dict[str, Release | str] = {}
        for result in rendered:
            path = Path(scratch) / f"{result.release.environment}--{result.release.name}.yaml"
            path.write_text(result.text)
            sources[str(path)] = result.release
        for path in sorted((root / "argocd").glob("*.yaml")):
            text = path.read_text()
            if "argoproj.io/" in text:
                sources[str(path)] = f"argocd/{path.name}"
        if not sources:
            return
        done = subprocess.run(
            [*command, *sources], cwd=root, capture_output=True, text=True, check=False
        )
    try:
        resources = json.loads(done.stdout)["resources"]
    except (ValueError, KeyError) as error:
        raise ReleaseError(f"kubeconform failed: {done.stderr or done.stdout}") from error
    for resource in resources or []:
        source = sources[resource["filename"]]
        where = source if isinstance(source, str) else f"{source.folder}"
        what = f"{resource['kind']} {resource['name']}"
        problems = resource.get("validationErrors") or [{"path": "", "msg": resource["msg"]}]
        for problem in problems:
            key = problem["path"].strip("/").replace("/", ".")
            of = "" if isinstance(source, str) else f" ({source})"
            yield Finding(where, 0, key, f"{what}: {problem['msg']}{of}")


def cross_checks(
    root: Path,
    documents: Mapping[Release, Sequence[Manifest]],
    settings: Mapping[str, set[str]],
    allowed: set[tuple[str, str]],
) -> Iterator[Finding]:
    """What no schema sees, within one environment: names that must point to something."""
    everything = [document for one in documents.values() for document in one]
    services = {d["metadata"]["name"]: d for d in everything if d["kind"] == "Service"}
    external = {h for d in everything if d["kind"] == "ServiceEntry" for h in d["spec"]["hosts"]}
    subsets = _subsets(everything)
    gateways = {d["metadata"]["name"] for d in everything if d["kind"] == "Gateway"}
    shared = {
        (d["metadata"]["namespace"], d["metadata"]["name"])
        for d in everything
        if d["kind"] == "Gateway"
    }
    for release, manifests in documents.items():
        yield from _environment_keys(root, release, settings)
        for document in manifests:
            context = _Context(root, release, document)
            yield from _kinds(context, allowed)
            yield from _images(context)
            yield from _ports(context)
            if document["kind"] == "Service":
                yield from _service(context, everything)
            elif document["kind"] == "VirtualService":
                yield from _routes(context, services, external, subsets, gateways)
            elif document["kind"] == "HTTPRoute":
                yield from _http_route(context, services, shared)
            elif document["kind"] == "DestinationRule":
                yield from _host(context, document["spec"]["host"], services, external, ("host",))


@dataclass(frozen=True)
class _Context:
    root: Path
    release: Release
    document: Manifest

    def finding(self, key: str, message: str, fix: str, *paths: Sequence[str]) -> Finding:
        """A finding at the first of the value paths that a file sets, else at the last file."""
        for path in paths:
            place = places.place_of(self.root, self.release.files, path)
            if place is not None:
                return Finding(
                    place.file, place.line, ".".join(path), f"{self.what} {message}", fix
                )
        file = self.release.files[-1] if self.release.files else self.release.folder
        return Finding(file, 0, key, f"{self.what} {message}", fix)

    @property
    def what(self) -> str:
        """``dev/routing: VirtualService public``."""
        return f"{self.release}: {self.document['kind']} {self.document['metadata']['name']}"


def _environment_keys(
    root: Path, release: Release, settings: Mapping[str, set[str]]
) -> Iterator[Finding]:
    """Environment keys are fields of the service's settings."""
    app = RUNS_IMAGE_OF.get(release.name, release.name.split("-", 1)[0])
    known = settings.get(app)
    if known is None:
        return
    for path in release.files:
        content = yaml.safe_load((root / path).read_text()) or {}
        if not isinstance(content, dict):
            continue
        for key in content.get("env") or {}:
            name = key.split("__", 1)[0]
            if name in known or key.startswith(_LIBRARY_VARIABLES):
                continue
            near = difflib.get_close_matches(key, sorted(known), n=1)
            fix = f"did you mean {near[0]}?" if near else f"see docs/reference/settings-{app}.md"
            line = places.line_of((root / path).read_text(), ("env", key)) or 0
            yield Finding(path, line, f"env.{key}", f"is no setting of {app} ({release})", fix)


def _kinds(context: _Context, allowed: set[tuple[str, str]]) -> Iterator[Finding]:
    """Argo CD refuses kinds that the project does not list."""
    group = context.document["apiVersion"].rpartition("/")[0]
    kind = context.document["kind"]
    if allowed and (group, kind) not in allowed:
        yield Finding(
            "argocd/project.yaml", 0, f"{group}/{kind}".strip("/"),
            f"{context.what} is of a kind that the project does not allow",
            f"add {{group: '{group}', kind: {kind}}} to its whitelist",
        )  # fmt: skip


def _images(context: _Context) -> Iterator[Finding]:
    """Digests decide what runs: a tag alone may mean something else tomorrow."""
    for _, container in _containers(context.document):
        if "@sha256:" not in container.get("image", ""):
            yield context.finding(
                "image.digest", f"runs {container.get('image')!r}, which has no digest",
                "let `release image set` write it", ("image", "digest"),
            )  # fmt: skip


def _ports(context: _Context) -> Iterator[Finding]:
    """Probes ask a port that the container listens on."""
    for where, container in _containers(context.document):
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


def _service(context: _Context, everything: Sequence[Manifest]) -> Iterator[Finding]:
    """A Service's selector finds pods, and its ports are ports of theirs."""
    spec = context.document["spec"]
    selector = spec.get("selector")
    if not selector:
        return
    pods = [
        template
        for document in everything
        if (template := _template(document)) is not None
        and selector.items() <= template["metadata"].get("labels", {}).items()
    ]
    if not pods:
        yield context.finding(
            "service", f"selects no pods ({selector})", "make its labels those of a release"
        )
        return
    listening: set[int | str] = set()
    for pod in pods:
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                listening |= {port["containerPort"], port.get("name", "")}
    for port in spec.get("ports", []):
        target = port.get("targetPort", port["port"])
        if target not in listening:
            yield context.finding(
                "ports", f"leads to port {target}, on which none of its pods listens",
                "set ports so that Service and container agree", ("ports",),
            )  # fmt: skip


def _routes(
    context: _Context,
    services: Mapping[str, Manifest],
    external: set[str],
    subsets: Mapping[str, set[str]],
    gateways: set[str],
) -> Iterator[Finding]:
    """Hosts, subsets, ports and gateways that a VirtualService names are there."""
    spec = context.document["spec"]
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
            path = ("services", host)
            found = list(_host(context, host, services, external, path))
            yield from found
            if found:
                continue
            subset = target.get("subset")
            if subset is not None and subset not in subsets.get(host, set()):
                near = difflib.get_close_matches(subset, sorted(subsets.get(host, set())), n=1)
                yield context.finding(
                    "subset", f"sends to the subset {subset!r} of {host}, which no "
                    "DestinationRule has",
                    f"did you mean {near[0]!r}?" if near else "add the subset first", path,
                )  # fmt: skip
            number = target.get("port", {}).get("number")
            yield from _port(context, host, number, services, path)


def _http_route(
    context: _Context, services: Mapping[str, Manifest], gateways: set[tuple[str, str]]
) -> Iterator[Finding]:
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
        path = ("services", target["name"])
        found = list(_host(context, target["name"], services, set(), path))
        yield from found or _port(context, target["name"], target.get("port"), services, path)
    for parent in parents:
        place = (parent.get("namespace", namespace), parent["name"])
        there = {name for folder, name in gateways if folder == place[0]}
        seen = bool(there) or place[0] == namespace
        if parent.get("kind", "Gateway") == "Gateway" and seen and place[1] not in there:
            yield context.finding(
                "parentRefs",
                f"names no Gateway of the environment: {'/'.join(place)}",
                f"use one of {', '.join(sorted(there)) or '(none)'}",
            )


def _port(
    context: _Context,
    host: str,
    number: int | None,
    services: Mapping[str, Manifest],
    path: Sequence[str],
) -> Iterator[Finding]:
    """A port that a route names is one of its Service's."""
    service = services.get(host.split(".", 1)[0])
    if number is None or service is None:
        return
    ports = {port["port"] for port in service["spec"]["ports"]}
    if number not in ports:
        yield context.finding(
            "port", f"sends to port {number} of {host}, whose Service has "
            f"{', '.join(map(str, sorted(ports)))}", "name one of those", path,
        )  # fmt: skip


def _host(
    context: _Context,
    host: str,
    services: Mapping[str, Manifest],
    external: set[str],
    path: Sequence[str],
) -> Iterator[Finding]:
    """A host is a Service of the environment or a ServiceEntry's; other namespaces are not seen."""
    name, *rest = host.split(".")
    elsewhere = bool(rest) and rest[0] not in ("svc", context.release.namespace)
    if host in external or name in services or (elsewhere and host not in external):
        return
    near = difflib.get_close_matches(name, sorted(services), n=1)
    yield context.finding(
        "host", f"names the host {host!r}, which is no Service of {context.release.environment}",
        f"did you mean {near[0]!r}?" if near else "deploy the release, or delete the route", path,
    )  # fmt: skip


def _subsets(everything: Iterable[Manifest]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for document in everything:
        if document["kind"] == "DestinationRule":
            names = {subset["name"] for subset in document["spec"].get("subsets", [])}
            found.setdefault(document["spec"]["host"], set()).update(names)
    return found


def _template(document: Manifest) -> Manifest | None:
    """The pod template of a workload."""
    spec: Any = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    elif document["kind"] not in ("Deployment", "Job", "StatefulSet", "DaemonSet"):
        return None
    template: Manifest = spec["template"]
    return template


def _containers(document: Manifest) -> Iterator[tuple[str, Manifest]]:
    template = _template(document)
    if template is None:
        return
    for group in ("initContainers", "containers"):
        for container in template["spec"].get(group, []):
            yield container["name"], container


def _settings(root: Path) -> tuple[dict[str, set[str]], list[str]]:
    """Names of each service's settings, from the references generated out of the code."""
    found: dict[str, set[str]] = {}
    for path in sorted((root / "docs" / "reference").glob("settings-*.json")):
        rows = json.loads(path.read_text())
        listed = rows if isinstance(rows, list) else rows.get("settings", [])
        found[path.stem.removeprefix("settings-")] = {row["name"] for row in listed}
    if found:
        return found, []
    return {}, ["docs/reference has no settings-*.json: environment keys were not checked."]


def _allowed_kinds(root: Path) -> set[tuple[str, str]]:
    """Kinds that the environments' project allows; empty when there is no project file."""
    path = root / "argocd" / "project.yaml"
    if not path.is_file():
        return set()
    allowed: set[tuple[str, str]] = set()
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except yaml.YAMLError:
        return set()  # kubeconform says so
    for document in documents:
        spec = (document or {}).get("spec", {})
        for key in ("clusterResourceWhitelist", "namespaceResourceWhitelist"):
            allowed |= {(row["group"], row["kind"]) for row in spec.get(key) or []}
    return allowed


@dataclass(frozen=True)
class _Folder:
    """A folder as a snapshot."""

    root: Path
    commit: str = "work tree"

    def read(self, path: str) -> bytes | None:
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def files(self, folder: str) -> list[str]:
        found = (self.root / folder).rglob("*")
        return sorted(str(path.relative_to(self.root)) for path in found if path.is_file())
