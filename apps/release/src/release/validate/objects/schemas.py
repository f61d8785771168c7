"""What Helm, the schemas and Argo CD's project refuse, brought back to the file that causes it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from release import programs, yaml_loader
from release.errors import ReleaseError
from release.render.helm import Release, Rendered
from release.validate.environment import Environment
from release.validate.findings import Context, Finding
from release.values import layout, locations
from release.values.locations import Place

SCHEMAS = "charts/schemas/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"


def of_helm(root: Path, result: Rendered) -> Iterator[Finding]:
    """A refusal of Helm, brought back to the file and line that causes it."""
    release = result.release
    complaints = locations.complaints(result.error, locations.schema_of(root, release.folder))
    for complaint in complaints:
        place = locations.place_of(root, release.files, complaint.path) or Place(
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
    if not complaints:
        message = " ".join(result.error.split())
        file = release.files[-1] if release.files else layout.environment_file(release.environment)
        for candidate in release.files:  # YAML errors name the file themselves
            if candidate in message:
                file = candidate
        line, fix = unreadable(root / file)
        yield Finding(
            file, line, "", message, fix or f"see docs/reference/chart-{release.chart}.md",
            (str(release),),
        )  # fmt: skip


def unreadable(path: Path) -> tuple[int, str]:
    """The line on which a file is no YAML, and what to do about it; 0 and nothing where it is."""
    try:
        data = path.read_bytes()
    except OSError:
        return 0, ""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return line, "save the file as UTF-8: it is in another encoding, such as EUC-KR"
    try:
        for _ in yaml.compose_all(text, Loader=yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        written = text.splitlines()[line - 1] if 0 < line <= len(text.splitlines()) else ""
        if "\t" in written:
            return line, "indent with blanks: YAML has no tabs there"
        if "alias" in str(error.problem):
            return line, (
                "quote a value that begins with *, or set the anchor (&name) above it in the "
                "same file"
            )
        return line, f"mend the YAML there: {error.problem or error.context}"
    except yaml.YAMLError as error:
        return 0, f"mend the YAML: {' '.join(str(error).split())}"
    return 0, ""


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
        for path in sorted((root / "argocd").rglob("*.yaml")):
            text = path.read_text(errors="replace")
            if "argoproj.io/" in text and root / "argocd/platform" not in path.parents:
                sources[str(path)] = str(path.relative_to(root))
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


def of_project(environment: Environment) -> Iterator[Finding]:
    """Argo CD refuses kinds that the project does not list, and other namespaces."""
    allowed = allowed_kinds(environment.root, environment.name)
    for release, manifests in environment.documents.items():
        for document in manifests:
            yield from _kind(Context(environment.root, release, document), allowed)


def _kind(context: Context, allowed: set[tuple[str, str]]) -> Iterator[Finding]:
    group = context.document["apiVersion"].rpartition("/")[0]
    kind = context.document["kind"]
    if allowed and (group, kind) not in allowed:
        yield Finding(
            layout.project_file(context.release.environment), 0, f"{group}/{kind}".strip("/"),
            f"{kind} {context.document['metadata']['name']} is of a kind that the project does not "
            "allow",
            f"add {{group: '{group}', kind: {kind}}} to its whitelist",
            (str(context.release),),
        )  # fmt: skip


def allowed_kinds(root: Path, environment: str) -> set[tuple[str, str]]:
    """Kinds that an environment's project allows; empty when there is no project file."""
    path = root / layout.project_file(environment)
    if not path.is_file():
        return set()
    allowed: set[tuple[str, str]] = set()
    try:
        documents = list(yaml_loader.load_all(path.read_bytes()))
    except yaml.YAMLError:
        return set()  # kubeconform says so
    for document in documents:
        if (document or {}).get("kind") != "AppProject":
            continue
        spec = document.get("spec", {})
        for key in ("clusterResourceWhitelist", "namespaceResourceWhitelist"):
            allowed |= {(row["group"], row["kind"]) for row in spec.get(key) or []}
    return allowed
