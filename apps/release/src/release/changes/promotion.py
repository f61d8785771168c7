"""Images and models of one environment for another, by digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from release.changes.messages import deployment_message, model_text
from release.changes.transaction import Plan, Row
from release.errors import ConflictError, FailedError, HeldError, NotFoundError, SupersededError
from release.git import message as msg
from release.git.ancestry import Sources, refuse_older
from release.git.commit_tree import CommitTree
from release.records import deployments, verdicts
from release.values import holds, model_map, tree
from release.values.references import Image, Model


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
        """All or nothing: one held or newer release refuses the promotion.

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


def machine_files(at: CommitTree, environment: str) -> list[str]:
    """The image and model files of an environment."""
    return [
        path for path in at.files(f"values/{environment}") if path.endswith(tree.MACHINE_SUFFIXES)
    ]
