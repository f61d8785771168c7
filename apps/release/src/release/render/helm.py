"""Charts and values to manifests, as Argo CD renders them: the same Helm, files and order."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from release import programs, yaml_loader
from release.errors import BadValuesError, ReleaseError
from release.git.program import Git
from release.values import layout

Manifest = dict[str, Any]

# Stand-ins for what is not deployed yet: without them nothing of a release's pods would be
# rendered, and nothing checked, until the first deployment.
_IMAGE = (
    "image: {repository: not-deployed.invalid/image, tag: none, "
    f"digest: 'sha256:{'0' * 64}', revision: '{'0' * 40}'}}\n"
)
_MODEL = f"models: {{none: {{version: '0', uri: 's3://none/none/0', sha256: '{'0' * 64}'}}}}\n"


@dataclass(frozen=True)
class Release:
    """A row of an environment's ApplicationSet, with the files it is rendered from.

    Paths are relative to the tree's root; ``files`` exist, ``missing`` do not.
    """

    environment: str
    name: str
    chart: str
    folder: str
    namespace: str
    files: tuple[str, ...]
    missing: tuple[str, ...]
    of: str = ""
    """The service whose image and values it shares; empty where that is itself."""

    @property
    def service(self) -> str:
        """The service whose image it runs."""
        return self.of or self.name

    def __str__(self) -> str:
        return f"{self.environment}/{self.name}"


@dataclass(frozen=True)
class Rendered:
    """What Helm made of a release: manifests, or why it refused."""

    release: Release
    text: str
    error: str = ""

    @property
    def manifests(self) -> list[Manifest]:
        """The documents."""
        return [document for document in yaml_loader.load_all(self.text) if document]


def environments(root: Path) -> list[str]:
    """Environments with an ApplicationSet, sorted."""
    found = []
    for path in sorted((root / layout.ENVIRONMENTS).glob("*.yaml")):
        with contextlib.suppress(yaml.YAMLError):
            documents = list(yaml_loader.load_all(path.read_bytes()))
            if any(isinstance(d, dict) and d.get("kind") == "ApplicationSet" for d in documents):
                found.append(path.stem)
    return found


def releases(root: Path, environment: str) -> list[Release]:
    """The rows of an environment's ApplicationSet, in their order.

    Raises BadValuesError when its file is not such a file.
    """
    path = layout.environment_file(environment)
    try:
        document = yaml_loader.load((root / path).read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise BadValuesError(
            f"{path} is not an ApplicationSet with a list of releases ({error!r}).",
            fix="compare it with the other environments' files",
        ) from error
    return [
        Release(
            environment,
            row.name,
            row.chart,
            row.folder,
            row.namespace,
            tuple(path for path in row.files if (root / path).is_file()),
            tuple(path for path in row.files if not (root / path).is_file()),
            row.of if row.of != row.name else "",
        )
        for row in layout.rows(document, environment)
    ]


def render_all(
    root: Path, wanted: Sequence[Release], *, placeholders: bool = False
) -> list[Rendered]:
    """Render releases side by side, as many as there are cores.

    With ``placeholders``, releases without an image (or a model) get one that does not exist.
    """
    helm = programs.find("helm")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda one: _render(helm, root, one, placeholders), wanted))


def _render(helm: str, root: Path, release: Release, placeholders: bool) -> Rendered:
    if not (root / release.folder / "Chart.yaml").is_file():
        return Rendered(release, "", f"{release.folder} is no chart")
    command = [helm, "template", release.name, release.folder, "--namespace", release.namespace]
    for path in release.files:
        command += ["--values", path]
    extra = _missing(root, release) if placeholders else ""
    if extra:
        command += ["--values", "-"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, input=extra or None, check=False
    )
    if done.returncode != 0:
        error = done.stderr.strip().removeprefix("Error: ")
        return Rendered(
            release, "", error.replace("Use --debug flag to render out invalid YAML", "")
        )
    return Rendered(release, done.stdout)


def _missing(root: Path, release: Release) -> str:
    """Stand-ins for a release's image and model where its files have empty ones."""
    extra = ""
    for path in release.files:
        for suffix, section, stand_in in (
            (".image.yaml", "image", _IMAGE),
            (".models.yaml", "models", _MODEL),
        ):
            if path.endswith(suffix) and _empty(root / path, section):
                extra += stand_in
    return extra


def _empty(path: Path, section: str) -> bool:
    """Whether a machine-owned file names nothing; what is wrong with a broken one says Helm."""
    try:
        content = yaml_loader.load(path.read_bytes()) or {}
        return not any((content.get(section) or {}).values())
    except (yaml.YAMLError, AttributeError):
        return False


@contextlib.contextmanager
def exported(git: Git, commit: str) -> Iterator[Path]:
    """A commit's charts, values and applications as files in a scratch folder."""
    present = [
        path
        for path in ("charts", "values", "argocd", "docs/reference")
        if git.attempt("cat-file", "-e", f"{commit}:{path}")[0] == 0
    ]
    if not present:
        raise ReleaseError(f"{commit[:12]} has no charts, values or argocd in it.")
    archive = git.run("archive", "--format=tar", commit, "--", *present)
    with tempfile.TemporaryDirectory(prefix="release-tree-") as scratch:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(scratch, filter="data")
        yield Path(scratch)
