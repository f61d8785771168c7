"""The planners of image set, model set, promote, hold and unhold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from release.changes.transaction import Plan, Row
from release.errors import (
    BadValuesError,
    ConflictError,
    FailedError,
    HeldError,
    NotFoundError,
    SupersededError,
)
from release.git import message as msg
from release.git.ancestry import Sources, refuse_older
from release.git.repository import CommitTree
from release.records import deployments, verdicts
from release.values import holds, model_map, scalars, tree
from release.values.holds import Hold
from release.values.references import Image, Model


@dataclass(frozen=True)
class ImageSet:
    """Write new images into an environment; ``images`` maps image names to what to write."""

    environment: str
    images: Mapping[str, Image]
    sources: Sources
    now: datetime
    allow_unrelated: bool = False

    def __call__(self, at: CommitTree) -> Plan:
        """Releases that are held or run something newer are left alone, each with a note.

        Raises HeldError or SupersededError when that leaves nothing to do, NotFoundError for
        an image that no release of the environment runs.
        """
        tree.require_environment(at, self.environment)
        images = tree.images(at, self.environment)
        current = {release: image for release, (_, image) in images.items()}
        runs = {release: name for release, (name, _) in images.items()}
        unknown = set(self.images) - set(runs.values())
        if unknown:
            raise tree.unknown_service(sorted(unknown)[0], set(runs.values()), self.environment)
        held = holds.read(at, self.environment)
        edits: dict[str, bytes | None] = {}
        rows: list[Row] = []
        refused: list[HeldError | SupersededError] = []
        for release, old in current.items():
            new = self.images.get(runs[release])
            if new is None or (old.repository, old.digest) == (new.repository, new.digest):
                continue
            try:
                if hold := holds.covering(held, release, self.now):
                    raise holds.refuse(self.environment, release, hold)
                refuse_older(
                    self.sources,
                    f"{release} in {self.environment}",
                    old.revision,
                    new.revision,
                    allow_unrelated=self.allow_unrelated,
                )
            except (HeldError, SupersededError) as error:
                refused.append(error)
                continue
            path = tree.image_file(self.environment, release)
            edits[path] = tree.write_image(at, path, new)
            rows.append(Row(release, "image", old.reference, new.reference))
        if refused and not edits:
            raise refused[0]
        revisions = sorted({image.revision for image in self.images.values()})
        return Plan(
            edits,
            deployment_message("image set", self.environment, rows, revisions),
            rows,
            [f"Left alone: {error.message}" for error in refused],
        )


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
class Promote:
    """Copy images and models from one environment to another, by digest."""

    source: str
    target: str
    sources: Sources
    now: datetime
    services: Sequence[str] = ()
    """Release names; all when empty."""
    expect: str | None = None
    """Commit whose state of the source environment is meant; refused when it has moved on."""
    branch: str = "main"
    allow_unrelated: bool = False
    verdicts: verdicts.Log = field(default_factory=lambda: verdicts.Log([]))
    override: str = ""
    """Why it goes without a verdict, before its soak time or outside the window, if it does."""

    def __call__(self, at: CommitTree) -> Plan:
        """Promotion is of a whole: one held or newer release refuses all of it.

        Raises HeldError, SupersededError, NotFoundError, FailedError when the source environment
        has no verdict, and ConflictError when it is not as at ``expect``.
        """
        for environment in (self.source, self.target):
            tree.require_environment(at, environment)
        self._check_expected(at)
        if not self.override:
            self._check_rules(at)
        held = holds.read(at, self.target)
        edits: dict[str, bytes | None] = {}
        rows: list[Row] = []
        notes: list[str] = []
        revisions: set[str] = set()
        images = self._images(at, notes)
        models = [
            release
            for release in tree.model_releases(at, self.target)
            if release in tree.model_releases(at, self.source)
        ]
        notes += self._only_in_source(at)
        self._check_services({*models, *(release for release, *_ in images)}, at)
        for release, path, old, new in images:
            if self.services and release not in self.services:
                continue
            if old == new:
                continue
            if not new.deployed:
                notes.append(f"Left alone: {release} is not deployed in {self.source}.")
                continue
            if hold := holds.covering(held, release, self.now):
                raise holds.refuse(self.target, release, hold)
            refuse_older(
                self.sources,
                f"{release} in {self.target}",
                old.revision,
                new.revision,
                allow_unrelated=self.allow_unrelated,
            )
            self._check_branch(release, new)
            revisions.add(new.revision)
            rows.append(Row(release, "image", old.reference, new.reference))
            edits[path] = tree.write_image(at, path, new)
        for release in models:
            if self.services and release not in self.services:
                continue
            changed = self._models(at, release, rows, notes)
            if changed and (hold := holds.covering(held, release, self.now)):
                raise holds.refuse(self.target, release, hold)
            edits |= changed
        message = deployment_message("promote", self.target, rows, sorted(revisions))
        more = [(msg.PROMOTED_FROM, f"{self.source}@{at.commit}")]
        more += [(msg.REASON, self.override)] if self.override else []
        return Plan(edits, replace(message, trailers=[*message.trailers, *more]), rows, notes)

    def _check_rules(self, at: CommitTree) -> None:
        """Verdict, soak time and calendar, at the moment of this very attempt."""
        # Only promotions read rules; pydantic takes every command's start a sixth longer.
        from release.values import promotion_policy  # noqa: PLC0415

        rules = promotion_policy.read(at, self.target)
        if rules.sources and self.source not in rules.sources:
            raise HeldError(
                f"{self.target} is promoted from {', '.join(rules.sources)} only "
                f"({promotion_policy.PATH}), not from {self.source}.",
                fix=f"promote to {rules.sources[0]} first",
            )
        if not rules.open(self.now):
            raise HeldError(
                f"Promotion to {self.target} is closed now; it is open "
                f"{' or '.join(str(window) for window in rules.windows)} "
                f"({promotion_policy.PATH}).",
                fix="wait, or pass --override REASON",
            )
        files = deployments.files_at(at, self.source)
        since = self.verdicts.verified_since(self.source, files)
        if since is None:
            raise FailedError(
                f"What {self.source} runs has no verdict that it is healthy.",
                fix=f"`release verify --env {self.source}`, or promote with --verify",
            )
        # The verdict's clock may be ahead of ours.
        soaked = max(self.now - since, timedelta(0))
        if soaked < rules.soak:
            raise HeldError(
                f"{self.source} has run this for {soaked}; {self.target} wants "
                f"{rules.soak} ({promotion_policy.PATH}).",
                fix=f"wait until {(since + rules.soak):%Y-%m-%d %H:%M} UTC, or --override REASON",
            )

    def _check_branch(self, release: str, new: Image) -> None:
        """Builds of branches go no further than where they are tried."""
        heads = [f"refs/remotes/origin/{self.branch}", f"refs/heads/{self.branch}"]
        if not self.allow_unrelated and self.sources.on_branch(new.revision, heads) is not True:
            raise SupersededError(
                f"{release} in {self.source} is a build of {new.revision[:12]}, which is not in "
                f"the history of {self.branch}.",
                fix="merge it and deploy the build of the merge, or name the source with --source",
            )

    def _models(
        self, at: CommitTree, release: str, rows: list[Row], notes: list[str]
    ) -> dict[str, bytes | None]:
        """The edits that give the target the source's models; one that only the target has stays.

        What is changed is added to ``rows``, what is left alone to ``notes``.
        """
        theirs = model_map.read(at, self.source, release)
        mine = model_map.read(at, self.target, release)
        notes += [
            f"Left alone: {release} in {self.target} serves {name}, which it does not in "
            f"{self.source}; `release model remove {name} --env {self.target}` takes it away."
            for name in sorted(mine.keys() - theirs.keys())
        ]
        changed = [name for name, model in sorted(theirs.items()) if mine.get(name) != model]
        rows += [
            Row(release, "model", model_text(mine.get(name, Model())), model_text(theirs[name]))
            for name in changed
        ]
        return model_map.write(at, self.target, release, mine | theirs) if changed else {}

    def _images(self, at: CommitTree, notes: list[str]) -> list[tuple[str, str, Image, Image]]:
        """Release, file in the target, what it says, what the source environment says."""
        found: list[tuple[str, str, Image, Image]] = []
        for release in tree.image_releases(at, self.target):
            path = tree.image_file(self.target, release)
            if at.read(tree.image_file(self.source, release)) is None:
                notes.append(f"Left alone: {self.source} has no release {release}.")
                continue
            old = tree.read_image(at, self.target, release)
            found.append((release, path, old, tree.read_image(at, self.source, release)))
        return found

    def _only_in_source(self, at: CommitTree) -> list[str]:
        """A word on each model whose release the target does not have."""
        there = tree.present(at, self.target)
        return [
            f"Left alone: {self.target} has no release {release}, which serves {name} in "
            f"{self.source}; `release model add {name} --from {model.uri} --env {self.target}` "
            "makes one."
            for release in tree.model_releases(at, self.source)
            if release not in there and (not self.services or release in self.services)
            for name, model in sorted(model_map.read(at, self.source, release).items())
        ]

    def _check_services(self, known: set[str], at: CommitTree) -> None:
        for service in self.services:
            if service not in known:
                raise tree.unknown_service(service, known, self.target, "release")

    def _check_expected(self, at: CommitTree) -> None:
        if self.expect is None:
            return
        commit = at.git.resolve(self.expect)
        if commit is None:
            raise NotFoundError(f"The manifest repository has no commit {self.expect!r}.")
        then = CommitTree(at.git, commit)
        moved = [
            path
            for path in machine_files(at, self.source)
            if then.blob(path) != at.blob(path) and self._concerns(path)
        ]
        if moved:
            raise ConflictError(
                f"{self.source} is not as it was at {commit[:12]} any more: "
                f"{', '.join(moved)} changed.",
                fix=f"look at `release status --env {self.source}`, then expect its newest commit",
            )

    def _concerns(self, path: str) -> bool:
        return not self.services or tree.release_of(path) in self.services


@dataclass(frozen=True)
class SetHold:
    """Add a hold, in place of the same owner's hold on the same services."""

    environment: str
    hold: Hold

    def __call__(self, at: CommitTree) -> Plan:
        """Raises NotFoundError for an unknown environment or release."""
        tree.require_environment(at, self.environment)
        _check_releases(at, self.environment, self.hold.services)
        kept = [
            other
            for other in holds.read(at, self.environment)
            if (other.services, other.owner) != (self.hold.services, self.hold.owner)
        ]
        return Plan(
            {tree.hold_file(self.environment): holds.write([*kept, self.hold])},
            hold_message("hold", self.environment, self.hold.services, self.hold.reason),
            notes=[str(self.hold)],
        )


@dataclass(frozen=True)
class Unhold:
    """End an environment's holds: all of them, or those on the named releases."""

    environment: str
    services: Sequence[str] = ()

    def __call__(self, at: CommitTree) -> Plan:
        """A hold on more releases than named stays on the rest; one on ``*`` ends only whole.

        To end all of them the file is not read: it may be what cannot be read.
        """
        tree.require_environment(at, self.environment)
        _check_releases(at, self.environment, self.services)
        kept: list[Hold] = []
        for hold in holds.read(at, self.environment) if self.services else ():
            if holds.EVERY in hold.services:
                raise ConflictError(
                    f"{self.environment} is held as a whole: {hold}.",
                    fix=f"end it with `release unhold --env {self.environment}`",
                )
            rest = tuple(service for service in hold.services if service not in self.services)
            if rest:
                kept.append(replace(hold, services=rest))
        return Plan(
            {tree.hold_file(self.environment): holds.write(kept)},
            hold_message("unhold", self.environment, self.services or (holds.EVERY,), ""),
        )


STEPS = (5, 25, 50, 100)


@dataclass(frozen=True)
class Weights:
    """Shift a service's split towards a variant; the service itself keeps what is left.

    ``weight`` is the variant's share in percent; None takes the next of `STEPS`. ``abort`` sends
    everything back to the service itself.
    """

    environment: str
    service: str
    variant: str
    now: datetime
    weight: int | None = None
    abort: bool = False

    def __call__(self, at: CommitTree) -> Plan:
        """Raises BadValuesError when routing.yaml has no such split, HeldError on a hold."""
        tree.require_environment(at, self.environment)
        path = f"values/{self.environment}/routing.yaml"
        data = at.read(path)
        if data is None:
            raise NotFoundError(f"{path} does not exist.")
        values = scalars.load(data, path)
        split = ((values.get("services") or {}).get(self.service) or {}).get("split")
        if not isinstance(split, dict) or self.service not in split or self.variant not in split:
            raise BadValuesError(
                f"{path} has no services.{self.service}.split with {self.service} and "
                f"{self.variant} in it.",
                fix=f"add `split: {{{self.service}: 100, {self.variant}: 0}}` first",
            )
        old = int(split[self.variant])
        new = self._weight(old)
        others = sum(int(v) for k, v in split.items() if k not in (self.service, self.variant))
        if new + others > 100:
            raise BadValuesError(
                f"{self.variant} cannot get {new} percent: other variants have {others}."
            )
        if not self.abort:
            held = holds.read(at, self.environment)
            for release in ("routing", self.service, self.variant):
                if hold := holds.covering(held, release, self.now):
                    raise holds.refuse(self.environment, release, hold)
        where = ("services", self.service, "split")
        edited = scalars.edit(
            data,
            {(*where, self.variant): new, (*where, self.service): 100 - new - others},
            path,
        )
        message = msg.Message(
            f"{self.environment}: Send {new} % of {self.service} to {self.variant}"
            + (" (aborted)" if self.abort else ""),
            [
                (msg.OPERATION, "weights"),
                (msg.ENVIRONMENT, self.environment),
                (msg.SERVICES, self.service),
            ],
        )
        rows = [Row(self.variant, "weight", f"{old} %", f"{new} %")] if old != new else []
        return Plan({path: edited} if rows else {}, message, rows)

    def _weight(self, old: int) -> int:
        if self.abort:
            return 0
        if self.weight is not None:
            return self.weight
        return next((step for step in STEPS if step > old), 100)


def machine_files(at: CommitTree, environment: str) -> list[str]:
    """The image and model files of an environment."""
    return [
        path for path in at.files(f"values/{environment}") if path.endswith(tree.MACHINE_SUFFIXES)
    ]


def model_text(model: Model) -> str:
    """A model for tables and trailers: ``digits/3@sha256:…``, or nothing."""
    return f"{model.short}@sha256:{model.sha256}" if model.deployed else ""


def deployment_message(
    operation: str, environment: str, rows: Sequence[Row], revisions: Sequence[str]
) -> msg.Message:
    """The message of a commit that changes what runs."""
    releases = list(dict.fromkeys(row.release for row in rows))
    trailers = [
        (msg.OPERATION, operation),
        (msg.ENVIRONMENT, environment),
        (msg.SERVICES, msg.names(releases)),
        *((msg.REVISION, revision) for revision in revisions),
        *(
            (
                msg.IMAGE if row.kind == "image" else msg.MODEL,
                f"{row.release} {row.old or 'none'} -> {row.new or 'none'}",
            )
            for row in rows
        ),
    ]
    verb = {
        "image set": "Deploy",
        "model set": "Deploy the model of",
        "model remove": "Remove a model of",
        "promote": "Promote",
    }
    subject = f"{environment}: {verb.get(operation, operation.capitalize())} {msg.names(releases)}"
    if len(revisions) == 1:
        subject += f" at {revisions[0][:12]}"
    return msg.Message(subject, trailers)


def hold_message(
    operation: str, environment: str, services: Sequence[str], reason: str
) -> msg.Message:
    """The message of a commit that changes holds only."""
    what = "everything" if holds.EVERY in services else msg.names(services)
    return msg.Message(
        f"{environment}: {operation.capitalize()} {what}",
        [
            (msg.OPERATION, operation),
            (msg.ENVIRONMENT, environment),
            (msg.SERVICES, msg.names(services)),
            *([(msg.REASON, reason)] if reason else []),
        ],
    )


def _check_releases(at: CommitTree, environment: str, services: Iterable[str]) -> None:
    known = tree.present(at, environment)
    for service in services:
        if service != holds.EVERY and service not in known:
            raise tree.unknown_service(service, known, environment, "release")
