"""Models of an environment: set, added, removed, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from release.changes import own_release
from release.changes.messages import deployment_message, model_text
from release.changes.transaction import Plan, Row
from release.errors import BadReferenceError, ConflictError, NotFoundError
from release.git import message as msg
from release.git.commit_tree import CommitTree
from release.values import holds, model_map, tree
from release.values.references import Model

DEFAULT_REPOSITORY = "s3://models"


def models_of(at: CommitTree, environment: str) -> Iterator[tuple[str, Model]]:
    """Every model of an environment with the release that serves it."""
    for release in tree.model_releases(at, environment):
        for model in model_map.read(at, environment, release).values():
            yield release, model


def repository_of(at: CommitTree, environment: str) -> str:
    """Where the environment's models lie, by the first that lies as ``<name>/<version>``."""
    for _, model in models_of(at, environment):
        end = f"/{model.name}/{model.version}"
        if model.uri.endswith(end):
            return model.uri.removesuffix(end)
    return DEFAULT_REPOSITORY


@dataclass(frozen=True)
class ModelSet:
    """Write a new model into a release of an environment."""

    environment: str
    release: str
    model: Model
    now: datetime

    def __call__(self, at: CommitTree) -> Plan:
        """Raises NotFoundError when the release serves no model, HeldError when it is held."""
        tree.require_environment(at, self.environment)
        known = tree.model_releases(at, self.environment)
        if self.release not in known:
            raise tree.unknown_service(
                self.release, set(known), self.environment, "release with models"
            )
        models = model_map.read(at, self.environment, self.release)
        name = self.model.name
        old = models.get(name, Model())
        if old == self.model:
            return Plan({}, deployment_message("model set", self.environment, [], []))
        if hold := holds.covering(holds.read(at, self.environment), self.release, self.now):
            raise holds.refuse(self.environment, self.release, hold)
        rows = [Row(self.release, "model", model_text(old), model_text(self.model))]
        others = msg.names(sorted(models.keys() - {name}))
        return Plan(
            model_map.write(at, self.environment, self.release, models | {name: self.model}),
            deployment_message("model set", self.environment, rows, []),
            rows,
            [f"{self.release} serves {others} too, and its pods are restarted."] if others else [],
        )


@dataclass(frozen=True)
class ModelAdd:
    """Write a model that no release of the environment serves yet."""

    environment: str
    release: str
    model: Model
    now: datetime

    def __call__(self, at: CommitTree) -> Plan:
        """Raises ConflictError for a name that is in use; nothing to do where it is this model."""
        tree.require_environment(at, self.environment)
        model = self.model
        check_free(
            at, self.environment, self.release,
            name=model.name, version=model.version, model=model,
        )  # fmt: skip
        return ModelSet(self.environment, self.release, self.model, self.now)(at)


def check_free(
    at: CommitTree,
    environment: str,
    release: str,
    *,
    name: str,
    version: str,
    model: Model | None = None,
) -> None:
    """Raises ConflictError where another release has the name, or this one another model of it.

    Without ``model``, the version alone is compared: before it is published, nothing else is known.
    """
    for server, there in models_of(at, environment):
        same = there.version == version and model in (None, there)
        if there.name == name and (server != release or not same):
            raise ConflictError(
                f"{server} in {environment} serves {there.short} already.",
                fix=f"`release model set --env {environment} --release {server}` writes another "
                f"version of it; else add this one under another name",
            )


@dataclass(frozen=True)
class ModelRemove:
    """Take a model away from the release that serves it, and its own release with it."""

    environment: str
    name: str
    now: datetime
    last: bool = False
    """Also where its server then has no model, and so no pods."""

    def __call__(self, at: CommitTree) -> Plan:
        """Raises NotFoundError where nobody serves it, HeldError when the release is held."""
        tree.require_environment(at, self.environment)
        found = [pair for pair in models_of(at, self.environment) if pair[1].name == self.name]
        if not found:
            names = ", ".join(model.name for _, model in models_of(at, self.environment))
            raise NotFoundError(
                f"{self.environment} has no model {self.name!r}.", fix=f"use one of {names or '-'}"
            )
        held = holds.read(at, self.environment)
        edits: dict[str, bytes | None] = {}
        rows: list[Row] = []
        for release, model in found:
            if hold := holds.covering(held, release, self.now):
                raise holds.refuse(self.environment, release, hold)
            left = model_map.read(at, self.environment, release)
            del left[self.name]
            rows.append(Row(release, "model", model_text(model), ""))
            if not left and own_release.is_own(at, self.environment, release):
                own = own_release.removed(at, self.environment, release)
                own_release.refuse_held(at, self.environment, own, self.now)
                edits |= own
                continue
            if not left and not self.last:
                raise BadReferenceError(
                    f"{self.name} is the only model of {release}, which runs no pods without one.",
                    fix="pass --last if that is meant",
                )
            edits |= model_map.write(at, self.environment, release, left)
        message = deployment_message(MODEL_REMOVE, self.environment, rows, [])
        return Plan(edits, message, rows)


MODEL_REMOVE = "model remove"
