"""A release of its own for a model: the row, the files and the callers' entries it consists of.

It shares the image and the values of the model server that it is made `of`. Whoever has that
server's address in a setting gets an entry for the new one, in a file that only `release` writes.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import yaml

from release import yaml_loader
from release.changes.messages import deployment_message, model_text
from release.changes.transaction import Plan, Row
from release.checks.plan import values_of
from release.create import rows
from release.create.service import EMPTY_IMAGE
from release.errors import BadReferenceError, BadValuesError, ConflictError, NotFoundError
from release.git.commit_tree import CommitTree
from release.values import holds, layout, model_map, scalars, tree
from release.values.merge import laid_over
from release.values.references import Model

LONGEST_NAME = 40
"""Of a release: the names of its objects begin with it and have at most 63 characters."""
_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
OF_CONNECTIONS = (
    "circuitBreaking", "loadBalancing", "outlierDetection", "port", "retries", "sidecar", "timeout",
)  # fmt: skip
"""What routing says of connections to a server; the rest is about one server's own traffic."""
_FIX = "name the release with --release, or put the model on a server that is there with --on"

Edits = dict[str, bytes | None]


def release_name(model: str) -> str:
    """The name of a model's own release: the model's, as far as Kubernetes takes it.

    Raises BadReferenceError where nothing that Kubernetes takes is left of it.
    """
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    if not _is_name(name):
        raise BadReferenceError(
            f"The model's name {model!r} makes no name of a release: lower-case letters, digits "
            f"and dashes, a letter first, at most {LONGEST_NAME}, and no word with a meaning of "
            "its own here or in YAML.",
            fix=_FIX,
        )
    return name


def _is_name(name: str) -> bool:
    fits = _NAME.fullmatch(name) is not None and len(name) <= LONGEST_NAME
    # `on` is no text in YAML, and values/<env>/hold.yaml is where the holds stand.
    return fits and scalars.written(name, None) == name and name != "hold"


@dataclass(frozen=True)
class OwnRelease:
    """Write a release for one model, like a model server that the environment has."""

    environment: str
    release: str
    of: str
    model: Model
    now: datetime

    def check(self, at: CommitTree) -> None:
        """Raises NotFoundError, ConflictError or BadReferenceError where it cannot be made."""
        tree.require_environment(at, self.environment)
        if self.of not in (known := tree.model_releases(at, self.environment)):
            raise tree.unknown_service(self.of, set(known), self.environment, "release with models")
        if not _is_name(self.release):
            raise BadReferenceError(f"{self.release!r} is no name of a release.", fix=_FIX)
        shared = self._shared(at)
        for environment in tree.environments(at):
            row = next(
                (row for row in tree.entries(at, environment) if row.name == self.release), None
            )
            is_ours = environment != self.environment and row is not None and row.of == shared
            if row is not None and not is_ours:
                raise ConflictError(
                    f"There is a release {self.release} in {environment} already.", fix=_FIX
                )
        if self.release not in tree.releases(at, self.environment) and (
            self.release in tree.present(at, self.environment)
            or at.files(f"{layout.SERVICES}/{self.release}")
        ):
            raise ConflictError(
                f"values/ has files of a release {self.release}, which no row of "
                f"{layout.environment_file(self.environment)} names.",
                fix="remove them, or choose another name with --release",
            )
        if not tree.read_image(at, self.environment, self.of).deployed:
            raise ConflictError(
                f"{self.of} in {self.environment} has no image yet, which the new release would "
                "share.",
                fix=f"deploy {self.of} first",
            )

    def _shared(self, at: CommitTree) -> str:
        """The service whose image and values the server shares, which may be another's itself."""
        found = tree.entries(at, self.environment)
        return next((row.of for row in found if row.name == self.of), self.of)

    def __call__(self, at: CommitTree) -> Plan:
        """Raises as `check` does, HeldError where a release whose files it edits is held, and
        BadValuesError where a file cannot be edited.
        """
        self.check(at)
        environment, release = self.environment, self.release
        image = tree.read_image(at, environment, self.of)
        path = layout.environment_file(environment)
        text = rows.with_row(_text(at, path), path, release, of=self._shared(at))
        text = rows.with_servers(text, path, environment)
        edits: Edits = {path: text.encode()}
        image_path = tree.image_file(environment, release)
        edits[image_path] = tree.with_image(EMPTY_IMAGE.encode(), image_path, image)
        if (own := at.read(layout.values_file(environment, self.of))) is not None:
            edits[layout.values_file(environment, release)] = own
        for path, data in model_map.write(
            at, environment, release, {self.model.name: self.model}
        ).items():
            edits[path] = (model_map.OF_ONE_MODEL.encode() + data) if data is not None else None
        edits |= _with_server(at, environment, release, self.of)
        refuse_held(at, environment, edits, self.now)
        notes = [f"{release} is a release of its own, with the image and the values of {self.of}."]
        if not _has_callers(at, environment, self.of):
            notes.append(
                f"No release of {environment} has the address of {self.of} in a setting: name "
                f"http://{release}:8080 where the model is asked."
            )
        notes += _not_extended(at, environment, release, self.of)
        shown = [
            Row(release, "image", "", image.reference),
            Row(release, "model", "", model_text(self.model)),
        ]
        message = deployment_message("model add", environment, shown, [])
        return Plan(edits, message, shown, notes)


def is_own(at: CommitTree, environment: str, release: str) -> bool:
    """Whether `release model add` made this release for a model."""
    data = at.read(tree.models_file(environment, release)) or b""
    return data.startswith(model_map.OF_ONE_MODEL.encode())


def removed(at: CommitTree, environment: str, release: str) -> Edits:
    """The edits after which a model's own release is gone from an environment."""
    path = layout.environment_file(environment)
    edits: Edits = {path: rows.without_row(_text(at, path), path, release).encode()}
    folder = f"values/{environment}/"
    # A release whose name goes on behind a dot has files that begin with this one's name.
    longer = tuple(
        f"{folder}{name}." for name in tree.releases(at, environment)
        if name.startswith(f"{release}.")
    )  # fmt: skip
    edits |= {
        file: None
        for file in at.files(folder.rstrip("/"))
        if file.startswith(f"{folder}{release}.") and not file.startswith(longer)
    }
    for file in at.files(folder.rstrip("/")):
        if file.endswith(tree.SERVERS_SUFFIX) and tree.release_of(file) != release:
            content = _loaded(at, file)
            for entries in (content.get("services"), content.get("calls"), *_env(content).values()):
                if isinstance(entries, dict):
                    entries.pop(release, None)
            left = _pruned(content)
            edits[file] = _written(left) if left else None
    return edits


def refuse_held(at: CommitTree, environment: str, paths: Iterable[str], now: datetime) -> None:
    """Raises HeldError where a release that one of these files is of is on hold."""
    held = holds.read(at, environment)
    for path in paths:
        release = tree.release_of(path)
        hold = holds.covering(held, release, now)
        if hold is not None and path.startswith(f"values/{environment}/"):
            raise holds.refuse(environment, release, hold)


def _with_server(at: CommitTree, environment: str, release: str, of: str) -> Edits:
    """What the mesh and each caller of a server say of it, said of a release like it."""
    edits: Edits = {}
    for row in tree.rows(at, environment):
        values = values_of(at, row)
        if row.chart == "routing":
            services = values.get("services") or {}
            addition = {"services": {release: _of_mesh(services[of])}} if of in services else {}
        elif row.chart == "service":
            settings = dict(_settings(values, of, release))
            addition = {"env": settings} if settings else {}
            if of in (values.get("calls") or {}):
                addition["calls"] = {release: values["calls"][of] or {}}
        else:
            continue
        if addition:
            path = tree.servers_file(environment, row.name)
            edits[path] = _written(laid_over(_loaded(at, path), addition))
    return edits


def _has_callers(at: CommitTree, environment: str, of: str) -> bool:
    return any(
        any(_settings(values_of(at, row), of, of))
        for row in tree.rows(at, environment)
        if row.chart == "service"
    )


def _not_extended(at: CommitTree, environment: str, release: str, of: str) -> list[str]:
    """A word on each setting with the server's address to which no entry could be added."""
    address = re.compile(rf"://(?:[^/@\s\"']*@)?{re.escape(of)}(?![\w-])")
    return [
        f"{row.name} has the address of {of} in {setting}, which is no map of entries with `url`: "
        f"add http://{release}:8080 there by hand."
        for row in tree.rows(at, environment)
        if row.chart == "service"
        for values in [values_of(at, row)]
        for setting, value in _env(values).items()
        if setting not in dict(_settings(values, of, release))
        and address.search(value if isinstance(value, str) else json.dumps(value, default=str))
    ]


def _env(values: Mapping[str, Any]) -> dict[str, Any]:
    found = values.get("env")
    return found if isinstance(found, dict) else {}


def _of_mesh(like: object) -> dict[str, Any]:
    """What routing says of connections to a server like this one."""
    found = like if isinstance(like, dict) else {}
    return {key: found[key] for key in OF_CONNECTIONS if key in found}


def _settings(
    values: Mapping[str, Any], of: str, release: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that hold an entry with the server's address, each with an entry like it."""
    for setting, entries in _env(values).items():
        if not isinstance(entries, dict):
            continue
        for entry in entries.values():
            url = urlsplit(str(entry.get("url", ""))) if isinstance(entry, dict) else None
            if url is not None and url.hostname is not None and url.hostname.split(".")[0] == of:
                like = copy.deepcopy(entry)
                host = url.netloc.replace(of, release, 1)
                like["url"] = url._replace(netloc=host).geturl()
                yield setting, {release: like}
                break


def _pruned(content: dict[str, Any]) -> dict[str, Any]:
    """Without maps that have become empty at the top two levels."""
    found = {}
    for key, value in content.items():
        kept = value
        if key == "env":
            kept = {name: entries for name, entries in _env(content).items() if entries}
        if kept:
            found[key] = kept
    return found


def _written(content: dict[str, Any]) -> bytes:
    return (model_map.HEADER + yaml.safe_dump(content, sort_keys=True, allow_unicode=True)).encode()


def _loaded(at: CommitTree, path: str) -> dict[str, Any]:
    data = at.read(path)
    try:
        content = yaml_loader.load(data or b"") or {}
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise BadValuesError(f"{path} is no map.", fix="restore the file from Git")
    return content


def _text(at: CommitTree, path: str) -> str:
    data = at.read(path)
    if data is None:
        raise NotFoundError(f"{path} does not exist at {at.commit[:12]}.")
    return data.decode()
