"""A new service: its package, tests, values and page, and a row in each environment."""

from __future__ import annotations

import contextlib
import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import yaml

from release import yaml_loader
from release.create import rows
from release.errors import BadReferenceError, BadValuesError, ConflictError, NotFoundError
from release.render import helm
from release.values import layout, tree

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_PATH = re.compile(r"(?:/[a-z0-9][a-z0-9._-]*)+")
LONGEST_NAME = 40
"""Characters: Kubernetes adds its own to the names of Jobs and pods, up to 63 in all."""
RESERVED = frozenset(
    {"environment", "routing", "gateway", "worker", "kit", "hold", "charts", "python", "pip"}
)
OF_THE_PROXY = (
    "/v1/predict", "/v1/jobs", "/v1/feedback", "/v1/uploads", "/v2/models", "/api/any", "/docs",
    "/redoc", "/openapi.json", "/livez", "/readyz", "/metrics",
)  # fmt: skip
"""Paths that the proxy answers, which has all that no other service takes."""
EMPTY_IMAGE = (
    "# Written by `release`; do not edit.\n"
    'image:\n  repository: ""\n  tag: ""\n  digest: ""\n  revision: ""\n'
)
Files = dict[str, bytes]


@dataclass(frozen=True)
class NewService:
    """What is asked for; ``path`` is its prefix at the gateway."""

    name: str
    path: str = ""
    environments: Sequence[str] = ()

    @property
    def module(self) -> str:
        """The name of its Python package."""
        return self.name.replace("-", "_")


def planned(root: Path, wanted: NewService) -> Files:
    """Files to write below ``root``, a checkout, by path; nothing is written here.

    Raises BadReferenceError for a name or path that cannot be, ConflictError for one that is
    in use, NotFoundError for an environment or a checkout that is not there.
    """
    known = helm.environments(root)
    if not (root / "apps").is_dir() or not known:
        raise NotFoundError(
            f"{root.resolve()} is no checkout of Slipway: it lacks apps/ or {layout.ENVIRONMENTS}.",
            fix="run the command at the top of the repository, or name it with --root",
        )
    _check_name(root, wanted.name)
    for environment in wanted.environments:
        if environment not in known:
            raise NotFoundError(
                f"Nobody deploys the environment {environment!r}.",
                fix=f"use one of {', '.join(known)}",
            )
    path = wanted.path or f"/{wanted.name}"
    if not _PATH.fullmatch(path):
        raise BadReferenceError(
            f"The path {path!r} is no prefix of a URL.", fix="write it like /ranker or /v1/rank"
        )
    _check_free(root, wanted.name)
    _check_path(root, path)
    files = _rendered(wanted, path)
    for environment in wanted.environments or known:
        file = layout.environment_file(environment)
        text = read_text(root / file)
        text = rows.with_routes(rows.with_row(text, file, wanted.name), file, wanted.name)
        files[file] = text.encode()
        files[tree.image_file(environment, wanted.name)] = EMPTY_IMAGE.encode()
    return files


def read_text(path: Path) -> str:
    """A file's text with its line ends as they are."""
    return path.read_bytes().decode()


def write(root: Path, files: Mapping[str, bytes]) -> None:
    """Write planned files below a checkout: all of them, or none where one cannot be written."""
    before: dict[Path, bytes | None] = {}
    made: list[Path] = []
    try:
        for name, content in files.items():
            target = root / name
            above = [one for one in target.parents if root in (one, *one.parents)]
            missing = [one for one in above if not one.exists()]
            made += reversed(missing)
            target.parent.mkdir(parents=True, exist_ok=True)
            before[target] = target.read_bytes() if target.is_file() else None
            target.write_bytes(content)
    except OSError as error:
        for path, content_before in before.items():
            with contextlib.suppress(OSError):
                if content_before is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(content_before)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise BadValuesError(
            f"{error.filename or root} cannot be written ({error.strerror}); nothing was changed.",
            fix="let this user write to the checkout, and run the command again",
        ) from error


def read_as_text(name: str) -> bool:
    """Whether YAML reads a name that stands without quotes as text; `no` it does not."""
    return bool(yaml.safe_load(name) == name)


def _check_name(root: Path, name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise BadReferenceError(
            f"The name {name!r} is no name of a service.",
            fix="write lower-case letters and digits, with single dashes between them, at most "
            f"{LONGEST_NAME} characters, like fraud-scorer",
        )
    module = name.replace("-", "_")
    said = ""
    if name in RESERVED or name in layout.NO_ENVIRONMENTS or not read_as_text(name):
        said = "has a meaning of its own here"
    elif keyword.iskeyword(module):
        said = "is a word of Python's own, and its package could not be imported"
    elif module in sys.stdlib_module_names:
        said = "is a module of Python's"
    elif (root / module).is_dir() or (root / f"{module}.py").is_file():
        said = f"is a folder at the top of the repository, {module}, which its package would hide"
    elif name in _locked_names(root) or _is_installed(name, module):
        said = "is an installed package's, which its own package would hide"
    elif (program := shutil.which(name)) and Path(program).parent != Path(sys.executable).parent:
        said = f"is a program's, {program}, which its own command would hide"
    if said:
        raise BadReferenceError(
            f"The name {name!r} {said}.",
            fix="choose another name, for example with your team's name in front",
        )


def _locked_names(root: Path) -> set[str]:
    """The packages that the services may import, by the names of their distributions."""
    try:
        text = (root / "uv.lock").read_text()
    except OSError:
        return set()
    return set(re.findall(r'^name = "([^"]+)"$', text, re.M))


def _is_installed(name: str, module: str) -> bool:
    """Whether a package of another distribution than the service's own can be imported."""
    owners = metadata.packages_distributions().get(module, ())
    return any(one.lower() != f"slipway-{name}" for one in owners)


def _check_path(root: Path, path: str) -> None:
    """Raises ConflictError where requests to another service would reach the new one."""
    used = dict.fromkeys(OF_THE_PROXY, "proxy")
    for file in sorted((root / layout.SERVICES).glob("*/routes.yaml")):
        content = yaml_loader.load(file.read_bytes()) or {}
        for service, routes in (content.get("services") or {}).items():
            used |= dict.fromkeys((routes or {}).get("paths") or (), str(service))
    for there, service in used.items():
        if there == path or there.startswith(f"{path}/"):
            raise ConflictError(
                f"The path {path} takes requests to {there}, which {service} answers.",
                fix="pass another --path, like /ranker or /v1/rank",
            )


def _check_free(root: Path, name: str) -> None:
    module = name.replace("-", "_")
    folders = (
        f"apps/{name}",
        f"{layout.SERVICES}/{name}",
        f"tests/{module}",
        f"docs/services/{name}.md",
    )
    for folder in folders:
        if (root / folder).exists():
            raise ConflictError(
                f"There is {folder} already.", fix="choose another name, or delete it first"
            )
    for environment in helm.environments(root):
        for release in helm.releases(root, environment):
            if name in (release.name, release.of):
                raise ConflictError(
                    f"{layout.environment_file(environment)} lists a release {release.name} "
                    f"already.", fix="choose another name",
                )  # fmt: skip


def _rendered(wanted: NewService, path: str) -> Files:
    """The template's files."""
    # It takes half a second to import, and no other command needs it.
    from copier import run_copy  # noqa: PLC0415

    answers = {
        "name": wanted.name,
        "module": wanted.module,
        "class_name": "".join(part.capitalize() for part in wanted.name.split("-")),
        "prefix": f"{wanted.module.upper()}_",
        "path": path,
    }
    with (
        resources.as_file(resources.files("release") / "templates" / "service") as template,
        tempfile.TemporaryDirectory(prefix="release-new-") as scratch,
    ):
        run_copy(str(template), scratch, data=answers, defaults=True, quiet=True)
        return {
            str(path.relative_to(scratch)): path.read_bytes()
            for path in sorted(Path(scratch).rglob("*"))
            if path.is_file()
        }
