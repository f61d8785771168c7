"""What Helm, the schemas and Argo CD's project refuse, brought back to the file that causes it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from release import places, programs
from release.errors import ReleaseError
from release.places import Place
from release.render import Release, Rendered
from release.validate.environment import Environment
from release.validate.findings import Context, Finding

SCHEMAS = "charts/schemas/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"


def of_helm(root: Path, result: Rendered) -> Iterator[Finding]:
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
            complaint.problem, fix.rstrip("."), (str(release),),
        )  # fmt: skip
    if not told:
        message = " ".join(result.error.split())
        file = release.files[-1] if release.files else f"argocd/{release.environment}.yaml"
        for candidate in release.files:  # YAML errors name the file themselves
            if candidate in message:
                file = candidate
        yield Finding(file, 0, "", message, releases=(str(release),))


def of_schemas(root: Path, rendered: Sequence[Rendered]) -> Iterator[Finding]:
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
            releases = () if isinstance(source, str) else (str(source),)
            yield Finding(where, 0, key, f"{what}: {problem['msg']}", releases=releases)


def of_project(environment: Environment, allowed: set[tuple[str, str]]) -> Iterator[Finding]:
    """Argo CD refuses kinds that the project does not list."""
    for release, manifests in environment.documents.items():
        for document in manifests:
            yield from _kind(Context(environment.root, release, document), allowed)


def _kind(context: Context, allowed: set[tuple[str, str]]) -> Iterator[Finding]:
    """Argo CD refuses kinds that the project does not list."""
    group = context.document["apiVersion"].rpartition("/")[0]
    kind = context.document["kind"]
    if allowed and (group, kind) not in allowed:
        yield Finding(
            "argocd/project.yaml", 0, f"{group}/{kind}".strip("/"),
            f"{kind} {context.document['metadata']['name']} is of a kind that the project does not "
            "allow",
            f"add {{group: '{group}', kind: {kind}}} to its whitelist",
            (str(context.release),),
        )  # fmt: skip


def allowed_kinds(root: Path) -> set[tuple[str, str]]:
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
