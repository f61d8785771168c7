"""Going back while Git is away: straight to the cluster, marked, and written to Git later.

Its own annotation has Argo CD leave the Applications alone, with a mark beside it that
says who, when, why and to which commit; the ApplicationSets preserve both.
What is applied goes by Argo CD's own field manager: then the fields and objects that the bad
version brought are removed, and nothing of ours is left behind when Argo CD takes over again.

Every step can be repeated: a run that was killed is finished by the next one, which finds the
marks and goes to the same commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from release.cluster import offline_mark, snapshots
from release.cluster.client import Cluster, Object
from release.cluster.offline_mark import MARK, SKIP, Mark
from release.cluster.snapshots import MANAGER, Snapshot
from release.diagnosis import explain
from release.diagnosis.releases import Finding, State, find
from release.errors import (
    ConflictError,
    FailedError,
    NotFoundError,
    ReleaseError,
    TimedOutError,
    UnreachableError,
)
from release.values import tree
from release.values.references import Image

TRACKING = "argocd.argoproj.io/tracking-id"
_OPTIONS = "argocd.argoproj.io/sync-options"
_WAVE = "argocd.argoproj.io/sync-wave"
# Within a wave: first what pods need, then pods, then what sends them requests.
_ORDER = {"Deployment": 1, "CronJob": 1, "Job": 1, "VirtualService": 2, "HTTPRoute": 2}
# What Argo CD was doing when it was asked to stop may still land on top of what was applied.
_ROUNDS = 5
# What it had begun to look at before it was marked it may still sync, once: a look takes seconds.
_QUIET_SECONDS = 10.0
# What a Deployment says of its rollout is of the one before for a moment.
_FAILED_LOOKS = 5


@dataclass(frozen=True)
class Done:
    """What an offline rollback did, or would do in a dry run."""

    mark: Mark
    releases: tuple[str, ...]
    objects: int
    deleted: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class OfflineRollback:
    """One rollback of an environment without Git; ``poll`` and ``timeout`` are in seconds."""

    cluster: Cluster
    environment: str
    by: str
    at: str
    reason: str = ""
    services: Sequence[str] = ()
    to: str | None = None
    timeout: float = 300.0
    poll: float = 1.0
    quiet: float = _QUIET_SECONDS
    """How long nothing else may have written, in seconds, before a restored deployment counts."""
    clock: Callable[[], float] = time.monotonic

    def run(self, *, dry_run: bool = False) -> Done:
        """Mark, apply, delete what the restored deployment does not have.

        Raises NotFoundError when the cluster keeps no deployment to go back to, ConflictError
        when another offline rollback stands in the way, FailedError when objects are refused.
        """
        applications = self._applications()
        live = snapshots.captured(self.cluster, applications)
        target, mark = self._target(applications, live)
        notes = [
            f"Left alone: {release} is newer than {target.commit[:12]}."
            for release in applications
            if release not in target.manifests
        ]
        chosen = {r: app for r, app in applications.items() if r in target.manifests}
        count = sum(len(target.manifests[release]) for release in chosen)
        if dry_run:
            extra = tuple(named(item) for item in self._extra(chosen, live, target))
            return Done(mark, tuple(chosen), count, extra, tuple(notes))
        for application in chosen.values():
            self._mark(application, mark)
        deleted: list[str] = []
        for attempt in range(_ROUNDS):
            self._apply(target, chosen)
            deleted += self._delete(chosen, live, target)
            if attempt:
                notes.append("Something else wrote as well; it was applied again.")
            time.sleep(self.poll)
            live = snapshots.captured(self.cluster, chosen, target.manifests)
            if self._as_wanted(target, live):
                return Done(mark, tuple(chosen), count, tuple(dict.fromkeys(deleted)), tuple(notes))
        raise self._written_over(target)

    def wait(self, target: Snapshot, releases: Sequence[str]) -> list[Finding]:
        """Until every pod of the restored deployment is ready and nothing wrote over it for
        ``quiet`` seconds, applying it again where something did; the findings.

        Raises FailedError or TimedOutError with causes, ConflictError as `run`.
        """
        deadline = self.clock() + self.timeout
        quiet_from, quiet = self.clock(), min(self.quiet, self.timeout / 2)
        findings: list[Finding] = []
        failed_looks = rounds = 0
        trouble: UnreachableError | None = None
        # Argo CD's own word is of before: what counts here are the workloads.
        stand_in = {"status": {"sync": {"status": "Synced"}, "health": {"status": "Healthy"}}}
        while True:
            try:
                if self._restored_again(target, releases):
                    quiet_from = self.clock()
                    rounds += 1
                seen = self.cluster.observe(self.environment, releases)
                seen = replace(seen, applications=dict.fromkeys(releases, stand_in))
                findings = [find(r, running_image(r, target.manifests[r]), seen) for r in releases]
                trouble = None
            except UnreachableError as error:
                trouble = error
            if rounds >= _ROUNDS:
                raise self._written_over(target)
            ready = findings and all(finding.state is State.DEPLOYED for finding in findings)
            if ready and not trouble and self.clock() - quiet_from >= quiet:
                return findings
            failed = [finding for finding in findings if finding.state is State.FAILED]
            failed_looks = failed_looks + 1 if failed and not trouble else 0
            if failed_looks >= _FAILED_LOOKS:
                why = explain.sentence(self._explained(failed))
                raise FailedError(
                    f"{self.environment} at {target.commit[:12]}, restored offline, failed. {why}",
                    fix="go further back with --to; `kubectl get secrets` in Argo CD's namespace "
                    "lists what is kept",
                )
            if self.clock() >= deadline:
                if trouble:
                    raise trouble
                late = [f for f in findings if f.state is not State.DEPLOYED]
                explained = self._explained(late)
                raise TimedOutError(
                    f"{self.environment} is not ready {self.timeout:g} seconds after it was "
                    f"restored offline. {explain.sentence(explained)}",
                    fix=explain.advice(explained) or "raise --timeout, or look at `release status`",
                )
            time.sleep(self.poll)

    def _explained(self, findings: Sequence[Finding]) -> list[Finding]:
        return [explain.with_reasons(self.cluster, self.environment, one) for one in findings]

    def _restored_again(self, target: Snapshot, releases: Sequence[str]) -> bool:
        """Whether something wrote over the deployment or was about to, and it was applied again."""
        applications = {r: app for r, app in self._applications().items() if r in releases}
        busy = [app for app in applications.values() if app.get("operation") or is_syncing(app)]
        for application in busy:
            if mark := offline_mark.read(application):
                self._mark(application, mark)
        live = snapshots.captured(self.cluster, applications, target.manifests)
        if not busy and self._as_wanted(target, live):
            return False
        self._apply(target, applications)
        self._delete(applications, live, target)
        return True

    def _written_over(self, target: Snapshot) -> ConflictError:
        return ConflictError(
            f"Something else keeps writing to {self.environment}: it is not as at "
            f"{target.commit[:12]} after {_ROUNDS} rounds.",
            fix="look at the objects' managedFields, stop that writer, then run it again",
        )

    def target(self, commit: str) -> Snapshot:
        """The deployment that is kept of a commit.

        Raises NotFoundError with those that are.
        """
        kept = snapshots.kept(self.cluster, self.environment)
        for one in kept:
            if one.commit.startswith(commit):
                return one
        known = ", ".join(one.commit[:12] for one in kept) or "none"
        raise NotFoundError(
            f"The cluster keeps no verified deployment of {self.environment} at {commit!r}.",
            fix=f"name one of those it keeps: {known}",
        )

    def _applications(self) -> dict[str, Object]:
        found = self.cluster.applications(self.environment)
        if not found:
            raise NotFoundError(
                f"Argo CD has no Applications of the environment {self.environment!r}.",
                fix="check the environment's name and the kubeconfig's context",
            )
        for service in self.services:
            if service not in found:
                raise tree.unknown_service(service, found, self.environment, "release")
        return {r: app for r, app in found.items() if not self.services or r in self.services}

    def _target(
        self, applications: Mapping[str, Object], live: snapshots.Manifests
    ) -> tuple[Snapshot, Mark]:
        """Where to go: where the rollback under way goes, else what was asked for, else back."""
        found = {r: mark for r, app in applications.items() if (mark := offline_mark.read(app))}
        for release, mark in found.items():
            target = self.target(mark.commit)
            under_way = mark.services == tuple(self.services)
            if under_way and (self.to is None or target.commit.startswith(self.to)):
                return target, mark
            if self.to is None:
                raise ConflictError(
                    f"{release} was {mark} already.",
                    fix="name the commit to go to with --to, or `release reconcile` first",
                )
        kept = snapshots.kept(self.cluster, self.environment)
        target = self.target(self.to) if self.to else previous(kept, live, self.environment)
        for service in self.services:
            if not running_image(service, target.manifests.get(service, ())).deployed:
                raise NotFoundError(
                    f"{service} runs no image of its own at {target.commit[:12]}.",
                    fix="roll all of the environment back, without --service",
                )
        # Going further back: what Git has is still what the first rollback replaced.
        replaces = {commit for mark in found.values() for commit in mark.replaces} or {
            commit for app in applications.values() if (commit := synced(app))
        }
        return target, Mark(
            target.commit,
            tuple(sorted(replaces)),
            tuple(self.services),
            self.by,
            self.at,
            self.reason,
        )

    def _mark(self, application: Object, mark: Mark) -> None:
        """Tell Argo CD to leave it alone, and to drop what it is doing."""
        patch: Object = {
            "metadata": {"annotations": {SKIP: "true", MARK: mark.annotation()}},
            "operation": None,
        }
        if is_syncing(application):
            patch["status"] = {"operationState": {"phase": "Terminating"}}
        self.cluster.patch_application(application["metadata"]["name"], patch)

    def _apply(self, target: Snapshot, applications: Mapping[str, Object]) -> None:
        refused: list[str] = []
        for manifest in ordered(
            [item for release in applications for item in target.manifests[release]]
        ):
            metadata = manifest["metadata"]
            try:
                path = self.cluster.path(
                    manifest["apiVersion"], manifest["kind"], metadata.get("namespace")
                )
                self.cluster.apply(f"{path}/{metadata['name']}", manifest, owner=MANAGER)
            except UnreachableError:
                raise
            except ReleaseError as error:
                refused.append(f"{named(manifest)}: {error.message}")
        if refused:
            raise FailedError(
                f"{self.environment} is not wholly restored. {'; '.join(refused)}",
                fix="mend the cause and run it again: it finishes what is left",
            )

    def _extra(
        self, applications: Mapping[str, Object], live: snapshots.Manifests, target: Snapshot
    ) -> list[Object]:
        """What Argo CD applied for these Applications and the restored deployment has not."""
        wanted = {snapshots.identity(item) for r in applications for item in target.manifests[r]}
        return [
            item
            for release, application in applications.items()
            for item in live[release]
            if snapshots.identity(item) not in wanted and deletable(item, application)
        ]

    def _delete(
        self, applications: Mapping[str, Object], live: snapshots.Manifests, target: Snapshot
    ) -> list[str]:
        extra = self._extra(applications, live, target)
        for item in extra:
            metadata = item["metadata"]
            path = self.cluster.path(item["apiVersion"], item["kind"], metadata.get("namespace"))
            self.cluster.delete(f"{path}/{metadata['name']}")
        return [named(item) for item in extra]

    def _as_wanted(self, target: Snapshot, live: snapshots.Manifests) -> bool:
        """Whether every manifest is live as it was applied; what has more is being deleted."""
        for release, items in live.items():
            present = {snapshots.identity(item): item for item in items}
            for manifest in target.manifests[release]:
                found = present.get(snapshots.identity(manifest))
                if found is None or not snapshots.same([found], [manifest]):
                    return False
        return True


def is_syncing(application: Object) -> bool:
    """Whether an operation of Argo CD is under way."""
    state: Object = application.get("status", {}).get("operationState", {})
    return bool(state.get("phase") == "Running")


def synced(application: Object) -> str:
    """The commit Argo CD synced last; it forgets the first of these while Git is away."""
    status = application.get("status", {})
    history = status.get("history") or [{}]
    return str(
        status.get("sync", {}).get("revision")
        or history[-1].get("revision")
        or (status.get("operationState", {}).get("syncResult") or {}).get("revision")
        or ""
    )


def previous(kept: Sequence[Snapshot], live: snapshots.Manifests, environment: str) -> Snapshot:
    """The newest verified deployment that is not what is live now.

    Raises NotFoundError when there is none.
    """
    for one in kept:
        for release, items in live.items():
            if release not in one.manifests:
                continue
            present = {snapshots.identity(item) for item in items}
            # A Job that has run is removed in time; that makes no other deployment of it.
            lasting = [
                item
                for item in one.manifests[release]
                if item["kind"] != "Job" or snapshots.identity(item) in present
            ]
            if not snapshots.same(items, lasting):
                return one
    known = ", ".join(one.commit[:12] for one in kept) or "none"
    raise NotFoundError(
        f"The cluster keeps no earlier verified deployment of {environment} (it keeps {known}).",
        fix="`release verify` keeps one at every verdict `deployed`; name a commit with --to",
    )


def named(manifest: Object) -> str:
    """``Service proxy``."""
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def ordered(manifests: Sequence[Object]) -> list[Object]:
    """In the order they are applied: by sync wave, then by kind."""

    def key(manifest: Object) -> tuple[int, int]:
        wave = manifest["metadata"].get("annotations", {}).get(_WAVE, "0")
        return int(wave), _ORDER.get(manifest["kind"], 0)

    return sorted(manifests, key=key)


def deletable(manifest: Object, application: Object) -> bool:
    """Whether Argo CD would prune it: it belongs to the Application and nothing forbids it."""
    annotations = manifest["metadata"].get("annotations", {})
    options = annotations.get(_OPTIONS, "").replace(" ", "").split(",")
    owner = annotations.get(TRACKING, "").partition(":")[0]
    return owner == application["metadata"]["name"] and not {
        "Prune=false", "Prune=confirm"
    } & set(options)  # fmt: skip


def running_image(release: str, manifests: Sequence[Object]) -> Image:
    """The image that a release's manifests run; ``Image()`` when they run none."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if manifest["kind"] not in ("Deployment", "CronJob", "Job"):
            continue
        containers = spec["template"]["spec"]["containers"]
        main = next((c for c in containers if c["name"] == release), containers[0])
        repository, _, digest = main["image"].partition("@")
        return Image(repository, digest=digest)
    return Image()
