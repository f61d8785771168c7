"""Where things stand in the manifest tree, and what the machine-owned files say.

Pure: it reads through a `Snapshot` (one commit's files) and never touches the disk.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields
from typing import Protocol

from release.errors import BadValuesError, NotFoundError, ReleaseError
from release.values import layout, scalars
from release.values.references import Image

IMAGE_SUFFIX = ".image.yaml"
MODEL_SUFFIX = ".models.yaml"
FORMER_MODEL_SUFFIX = ".model.yaml"
"""Of the files that held one model, before there was a map of them."""
SERVERS_SUFFIX = ".servers.yaml"
"""Of the files that say which model servers there are besides those that people name."""
MACHINE_SUFFIXES = (IMAGE_SUFFIX, MODEL_SUFFIX, FORMER_MODEL_SUFFIX)


class Snapshot(Protocol):
    """The files of one commit."""

    @property
    def commit(self) -> str:
        """The commit's id."""
        ...

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None when the commit has no such file."""
        ...

    def files(self, folder: str) -> list[str]:
        """Paths of all files below a folder, sorted."""
        ...


def image_file(environment: str, release: str) -> str:
    """Path of a release's machine-owned image file."""
    return f"values/{environment}/{release}{IMAGE_SUFFIX}"


def models_file(environment: str, release: str) -> str:
    """Path of a release's machine-owned map of models."""
    return f"values/{environment}/{release}{MODEL_SUFFIX}"


def servers_file(environment: str, release: str) -> str:
    """Path of what a release is configured with for models that have a release of their own."""
    return f"values/{environment}/{release}{SERVERS_SUFFIX}"


def former_model_file(environment: str, release: str) -> str:
    """Path of the file that held a release's only model, before there was a map."""
    return f"values/{environment}/{release}{FORMER_MODEL_SUFFIX}"


def hold_file(environment: str) -> str:
    """Path of an environment's holds; the file exists only while there are any."""
    return f"values/{environment}/hold.yaml"


def environments(tree: Snapshot) -> list[str]:
    """Environments somebody deploys: those with an ApplicationSet *and* values."""
    with_values = {path.split("/")[1] for path in tree.files("values") if path.count("/") == 2}
    named = {layout.environment_of(path) for path in tree.files(layout.ENVIRONMENTS)}
    return sorted(name for name in with_values - layout.NO_ENVIRONMENTS if name in named)


def require_environment(tree: Snapshot, environment: str) -> None:
    """Refuse an environment that nobody deploys.

    Raises NotFoundError with the environments there are.
    """
    known = environments(tree)
    if environment not in known:
        raise NotFoundError(
            f"Nobody deploys the environment {environment!r}: it needs values/{environment}/ and "
            f"{layout.environment_file(environment)}.",
            fix=f"use one of {', '.join(known) or '(none)'}, or add both",
        )


def unknown_service(
    name: str, known: Iterable[str], environment: str, what: str = "service"
) -> NotFoundError:
    """The error for a name that is not there, with the nearest one that is."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(options) or '(none)'}"
    return NotFoundError(f"{environment} has no {what} {name!r}.", fix=fix)


def rows(tree: Snapshot, environment: str) -> list[layout.Row]:
    """The releases listed in an environment's ApplicationSet with the files that they name.

    Raises BadValuesError when the file is no ApplicationSet with list generators, or its template
    is not understood.
    """
    path = layout.environment_file(environment)
    return layout.rows(scalars.load(_require(tree, path), path), environment)


def entries(tree: Snapshot, environment: str) -> list[layout.Entry]:
    """The releases listed in an environment's ApplicationSet, whatever its template says.

    Raises BadValuesError when the file is no ApplicationSet with list generators.
    """
    path = layout.environment_file(environment)
    return layout.entries(scalars.load(_require(tree, path), path), environment)


def releases(tree: Snapshot, environment: str) -> dict[str, str]:
    """Releases listed in an environment's ApplicationSet, each with its chart's name.

    Raises BadValuesError when the file is no ApplicationSet with list generators.
    """
    return {row.name: row.chart for row in entries(tree, environment)}


def release_of(path: str) -> str:
    """The release that a file of an environment belongs to."""
    return path.rsplit("/", 1)[-1].split(".", 1)[0]


def present(tree: Snapshot, environment: str) -> set[str]:
    """Releases that are listed or have a file: one whose file is missing is still there."""
    files = set(tree.files(f"values/{environment}")) - {hold_file(environment)}
    listed: Mapping[str, str] = {}
    with contextlib.suppress(ReleaseError):
        listed = releases(tree, environment)
    return {*listed, *map(release_of, files)}


def image_releases(tree: Snapshot, environment: str) -> list[str]:
    """Releases with an image file, sorted."""
    return _releases(tree, environment, IMAGE_SUFFIX)


def model_releases(tree: Snapshot, environment: str) -> list[str]:
    """Releases with a map of models, sorted."""
    both = (MODEL_SUFFIX, FORMER_MODEL_SUFFIX)
    return sorted({name for suffix in both for name in _releases(tree, environment, suffix)})


def _releases(tree: Snapshot, environment: str, suffix: str) -> list[str]:
    folder = f"values/{environment}/"
    return [
        path.removeprefix(folder).removesuffix(suffix)
        for path in tree.files(folder)
        if path.endswith(suffix)
    ]


def images(tree: Snapshot, environment: str) -> dict[str, tuple[str, Image]]:
    """By release, which image it runs and what its image file says.

    The name is the repository's last part, or before the first deployment the service that its
    row names (`of`), or its own.
    """
    of = {row.name: row.of for row in entries(tree, environment)}
    found = {}
    for release in image_releases(tree, environment):
        image = read_image(tree, environment, release)
        name = image.repository.rsplit("/", 1)[-1] or of.get(release, release)
        found[release] = (name, image)
    return found


def read_image(tree: Snapshot, environment: str, release: str) -> Image:
    """What a release's image file says."""
    path = image_file(environment, release)
    data = _require(tree, path)
    values = {f.name: scalars.read(data, ("image", f.name), path) for f in fields(Image)}
    if any(values.values()) and not all(values.values()):
        empty = ", ".join(f"image.{name}" for name, value in values.items() if not value)
        raise BadValuesError(
            f"{path} is half filled in: {empty} is empty.",
            fix='restore the file from Git; `release` writes all of them or leaves all ""',
        )
    return Image(**values)


def write_image(tree: Snapshot, path: str, image: Image) -> bytes:
    """The file's new bytes with the image's scalars in it."""
    return with_image(_require(tree, path), path, image)


def with_image(data: bytes, path: str, image: Image) -> bytes:
    """The bytes of an image file with the image's scalars in them."""
    values = zip((f.name for f in fields(image)), astuple(image), strict=True)
    return scalars.edit(data, {("image", name): value for name, value in values}, path)


def _require(tree: Snapshot, path: str) -> bytes:
    data = tree.read(path)
    if data is None:
        raise NotFoundError(f"{path} does not exist at {tree.commit[:12]}.")
    return data
