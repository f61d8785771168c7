"""Going back: which earlier state, and the one commit that restores it and puts a hold on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from release.changes.messages import model_text
from release.changes.transaction import Plan, Row
from release.errors import BadValuesError, ConflictError, NotFoundError
from release.git import message as msg
from release.git.commit_tree import CommitTree
from release.records import deployments
from release.records.deployments import State
from release.values import holds, layout, model_map, tree
from release.values.holds import EVERY, Hold
from release.values.references import Image, Model

# How far back an earlier state is looked for.
DEPTH = 200


@dataclass
class Rollback:
    """Restore an earlier state of an environment: images, models and configuration together.

    It remembers its target over the attempts of one run: what was decided by looking at the
    first commit stays decided when others push meanwhile.
    """

    environment: str
    owner: str
    reason: str
    now: datetime
    services: Sequence[str] = ()
    to: str | None = None
    hold: bool = True
    """Whether a hold follows; a deployment that never got healthy is reverted without one."""
    verified: Callable[[State], bool | None] = lambda state: None
    """The recorded verdict on a state; None when there is none."""
    any_verdicts: bool = False
    """Whether verdicts are recorded for this environment at all."""
    _target: State | None = field(default=None, init=False)
    _seen: set[Hold] = field(default_factory=set, init=False)

    def __call__(self, at: CommitTree) -> Plan:
        """Nothing to do when the same services were rolled back and nobody has changed them since.

        Raises NotFoundError when there is no such commit, service or earlier state, ConflictError
        when all that differs is a release that one of the two states has not.
        """
        tree.require_environment(at, self.environment)
        for service in self.services:
            known = tree.present(at, self.environment)
            if service not in known:
                raise tree.unknown_service(service, known, self.environment, "release")
        held = holds.read(at, self.environment)
        if self.to is not None and self._target is None:
            self._seen = set(held)
        if other := self._rolled_back(at, held):
            if self.to is not None:
                raise ConflictError(
                    f"{self.environment} was rolled back meanwhile: {other}.",
                    fix="look at `release status`, then run the command again if still needed",
                )
            note = (
                f"{self.environment} is rolled back already ({other}). "
                "To go further back, name the commit with --to."
            )
            return Plan({}, msg.Message("", []), notes=[note])
        current, history = self._history(at)
        if self._target is None:
            self._target = self._chosen(at, current, history)
        return self._restore(at, current, self._target, held)

    def _rolled_back(self, at: CommitTree, held: Sequence[Hold]) -> Hold | None:
        wanted = set(self.services) or {EVERY}
        for hold in held:
            if hold.operation != "rollback" or not hold.active(self.now) or hold in self._seen:
                continue
            covers = EVERY in hold.services or wanted <= set(hold.services)
            if covers and self._as_restored(at, hold):
                return hold
        return None

    def _as_restored(self, at: CommitTree, hold: Hold) -> bool:
        """Whether everything is as the rollback that set this hold left it: a hold stops no push
        of a person, and what that brought may be the fault."""
        log = deployments.log(at.git, at.commit, self.environment, limit=DEPTH)
        for entry in reversed([entry for entry in log if entry.first(msg.RESTORES)]):
            then = CommitTree(at.git, entry.commit)
            with contextlib.suppress(BadValuesError):
                if hold in holds.read(then, self.environment):
                    return self._files(then) == self._files(at)
        return False

    def _files(self, at: CommitTree) -> tuple[tuple[str, str], ...]:
        return deployments.files_at(at, self.environment, self.services)

    def _history(self, at: CommitTree) -> tuple[State, list[State]]:
        found = deployments.states(at.git, at.commit, self.environment, self.services, DEPTH)
        if not found:
            raise NotFoundError(f"{self.environment} has no history at {at.commit[:12]}.")
        return found[0], found

    def _chosen(self, at: CommitTree, current: State, history: Sequence[State]) -> State:
        if self.to is not None:
            commit = at.git.resolve(self.to)
            if commit is None:
                raise NotFoundError(f"The manifest repository has no commit {self.to!r}.")
            entry = deployments.logged(at.git, commit)
            files = self._files(CommitTree(at.git, commit))
            if not files:
                raise NotFoundError(f"{self.environment} did not exist at {commit[:12]}.")
            return State(entry, files)
        target = earlier(history, self.verified if self.any_verdicts else None, self._complete(at))
        if target is None:
            raise NotFoundError(
                f"{self.environment} has no earlier "
                f"{'verified ' if self.any_verdicts else ''}state to go back to "
                f"(now at {current.logged.commit[:12]}).",
                fix="name the commit with --to; `release history` lists them",
            )
        return target

    def _complete(self, at: CommitTree) -> Callable[[State], bool]:
        """Whether a state deploys all that is deployed now: an empty one is no way back."""
        needed = [
            release
            for release in tree.image_releases(at, self.environment)
            if (not self.services or release in self.services)
            and self._image(at, release) != Image()
        ]

        def complete(state: State) -> bool:
            then = CommitTree(at.git, state.logged.commit)
            # A release that is newer is left alone, as long as anything was deployed then.
            there = tree.present(then, self.environment)
            older = [release for release in needed if release in there]
            return bool(older) == bool(needed) and all(
                (image := self._image(then, r)) and image.deployed for r in older
            )

        return complete

    def _image(self, at: CommitTree, release: str) -> Image | None:
        """What a release runs; None when the file cannot be read, which may be the very fault."""
        if at.blob(tree.image_file(self.environment, release)) is None:
            return Image()
        with contextlib.suppress(BadValuesError):
            return tree.read_image(at, self.environment, release)
        return None

    def _models(self, at: CommitTree, release: str) -> dict[str, Model] | None:
        with contextlib.suppress(BadValuesError):
            return model_map.read(at, self.environment, release)
        return None

    def _as_map(self, at: CommitTree, then: CommitTree, path: str) -> dict[str, bytes | None]:
        """A file of then that held one model, as the map that charts read since.

        An entry for the same version keeps what it says now: it may be pinned by another sha256
        than then, and a version that was published never changes.
        """
        release = tree.release_of(path)
        now = self._models(at, release) or {}
        models = self._models(then, release) or {}
        for name, model in models.items():
            here = now.get(name, Model())
            if (here.version, here.uri) == (model.version, model.uri):
                models[name] = here
        return model_map.write(at, self.environment, release, models)

    def _restore(self, at: CommitTree, current: State, target: State, held: Sequence[Hold]) -> Plan:
        then = CommitTree(at.git, target.logged.commit)
        now_files, then_files = dict(current.files), dict(target.files)
        edits: dict[str, bytes | None] = {}
        notes: list[str] = []
        here, there = (tree.present(one, self.environment) for one in (at, then))
        for path in sorted(now_files.keys() | then_files.keys()):
            release = tree.release_of(path)
            if path.endswith(tree.SERVERS_SUFFIX):
                continue  # it goes with the rows of the ApplicationSet, which stay
            if release not in there:
                notes.append(f"Left alone: {path} is newer than {target.logged.commit[:12]}.")
            elif release not in here:
                notes.append(f"Left alone: {path} was removed since {target.logged.commit[:12]}.")
            elif now_files.get(path) != then_files.get(path):
                edits[path] = then.read(path)
        for path in [p for p in edits if p.endswith(tree.FORMER_MODEL_SUFFIX) and edits[p]]:
            del edits[path]
            edits |= self._as_map(at, then, path)
        if not edits and notes and self.to is None:
            raise ConflictError(
                f"{self.environment} differs from {target.logged.commit[:12]} only by releases "
                f"that one of the two has not: nothing to restore. {' '.join(notes)}",
                fix="add or remove the release in a commit, or name an earlier commit with --to",
            )
        if not edits:
            at_target = f"{self.environment} is as at {target.logged.commit[:12]} already."
            return Plan({}, msg.Message("", []), notes=[*notes, at_target])
        notes += self._shared_changes(at, target)
        rows = self._rows(at, then, edits)
        what = msg.names(self.services) if self.services else "everything"
        hold = Hold(
            services=tuple(self.services) or (EVERY,),
            reason=self.reason or f"rolled back from {current.logged.commit[:12]}",
            owner=self.owner,
            since=self.now,
            operation="rollback",
        )
        if self.hold:
            others = (h for h in held if (h.operation, h.services) != ("rollback", hold.services))
            edits[tree.hold_file(self.environment)] = holds.write([*others, hold])
            notes.append(str(hold))
        restored = [self._image(then, row.release) for row in rows if row.kind == "image"]
        revisions = sorted({image.revision for image in restored if image and image.revision})
        message = msg.Message(
            f"{self.environment}: Roll {what} back to {target.logged.commit[:12]}",
            [
                (msg.OPERATION, "rollback"),
                (msg.ENVIRONMENT, self.environment),
                (msg.SERVICES, msg.names(dict.fromkeys(row.release for row in rows))),
                *((msg.REVISION, revision) for revision in revisions),
                *(
                    (
                        msg.IMAGE if row.kind == "image" else msg.MODEL,
                        f"{row.release} {row.old or 'none'} -> {row.new or 'none'}",
                    )
                    for row in rows
                    if row.kind != "values"
                ),
                (msg.RESTORES, target.logged.commit),
                (msg.REPLACES, current.logged.commit),
                (msg.REASON, hold.reason),
            ],
        )
        return Plan(edits, message, rows, notes)

    def _rows(self, at: CommitTree, then: CommitTree, edits: dict[str, bytes | None]) -> list[Row]:
        rows = []
        for path in edits:
            release = tree.release_of(path)
            if path.endswith(tree.IMAGE_SUFFIX):
                images = (self._image(at, release), self._image(then, release))
                rows.append(Row(release, "image", *map(_image_text, images)))
            elif path.endswith(tree.MODEL_SUFFIX):
                rows += _model_rows(release, self._models(at, release), self._models(then, release))
            else:
                old, new = at.blob(path) or "", then.blob(path) or ""
                rows.append(Row(release, "values", old[:12], new[:12]))
        return rows

    def _shared_changes(self, at: CommitTree, target: State) -> list[str]:
        """What no environment's rollback restores: the files that all environments share."""
        shared = list(layout.SHARED)
        changed = at.git.text(
            "log", "--first-parent", "--format=%h", f"{target.logged.commit}..{at.commit}", "--",
            *shared,
        ).split()  # fmt: skip
        if not changed:
            return []
        return [
            f"{', '.join(shared)} changed since {target.logged.commit[:12]} and stay as they are "
            f"({', '.join(changed[:5])}{', …' if len(changed) > 5 else ''}): all environments "
            "share them. Revert those commits if they are the cause."
        ]


def _image_text(image: Image | None) -> str:
    return "unreadable" if image is None else image.reference


def _model_rows(
    release: str, now: dict[str, Model] | None, then: dict[str, Model] | None
) -> list[Row]:
    if now is None or then is None:
        sides = (_models_text(models) for models in (now, then))
        return [Row(release, "model", *sides)]
    return [
        Row(release, "model", *(model_text(side.get(name, Model())) for side in (now, then)))
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]


def _models_text(models: dict[str, Model] | None) -> str:
    return "unreadable" if models is None else ", ".join(map(model_text, models.values()))


def earlier(
    history: Sequence[State],
    verified: Callable[[State], bool | None] | None,
    complete: Callable[[State], bool],
) -> State | None:
    """The state to go back to: the newest earlier one that differs, was verified and is complete.

    A state that was rolled back from is never a target, nor any state between it and what that
    rollback restored: rolling back twice goes further back, not forward to the fault.
    ``verified`` is None where no verdicts are recorded; then any earlier state will do.
    """
    by_commit = {state.logged.commit: index for index, state in enumerate(history)}

    def restored(index: int) -> int | None:
        """Where in the history the state stands that this commit, a rollback, went back to."""
        origin = by_commit.get(history[index].logged.first(msg.RESTORES), -1)
        # A rollback of some services restores no earlier state: it makes one like any other.
        return origin if origin > index and history[origin].files == history[index].files else None

    index = 0
    while index < len(history):
        if (origin := restored(index)) is not None:
            index = origin
            continue
        state = history[index]
        if (
            state.files != history[0].files
            and complete(state)
            and (verified is None or verified(state))
        ):
            return state
        index += 1
    return None
