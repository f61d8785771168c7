"""The verdict on a deployment: deployed, failed, timed out, superseded or not found."""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from release.checks import endpoints
from release.checks.run import Checks
from release.checks.user_requests import UserRequests
from release.cluster import offline_mark
from release.cluster.client import REFRESH, Cluster, ForbiddenError, Object, Observation
from release.diagnosis import explain
from release.diagnosis.applications import is_applied, reconciled_after_operation
from release.diagnosis.causes import Cause
from release.diagnosis.jobs import run_as_job, try_as_job, verification_job
from release.diagnosis.releases import Finding, State, find
from release.errors import (
    FailedError,
    HeldError,
    NotFoundError,
    ReleaseError,
    SupersededError,
    TimedOutError,
    UnreachableError,
)
from release.git.commit_tree import CommitTree
from release.git.repository import ManifestRepo
from release.records import deployments
from release.status.table import failed_if_scaled_down
from release.verification.target import Target

# A release is called failed when it has looked so for this many looks on end: what Argo CD shows
# in the moment after a sync may still be about the version before.
LOOKS = 2
# And Argo CD is called idle when it has not begun a sync for so many.
IDLE_LOOKS = 5
# What fails of a workload itself, which may be that of before as long as nothing is applied.
OF_PODS = frozenset({"deadline", "image", "container", "crash", "job"})
# Routes and identities take a moment to reach every sidecar after pods are ready.
ANSWER_SECONDS = 20.0


@dataclass
class Watch:
    """One wait for a verdict; ``poll`` and ``timeout`` are in seconds."""

    repo: ManifestRepo
    cluster: Cluster
    target: Target
    timeout: float = 300.0
    poll: float = 1.0
    run_cronjobs: bool = True
    preempt: bool = False
    """End operations under way on other commits: a rollback waits for no stuck deployment."""
    dry_run: bool = False
    """Only look: write nothing to the cluster."""
    checks: Checks | None = None
    """Asks the services once they look deployed; None asks nothing."""
    requests: UserRequests | None = None
    """Counts what users were answered meanwhile; None counts nothing."""
    progress: Callable[[Sequence[Finding]], None] = lambda findings: None
    clock: Callable[[], float] = time.monotonic
    _failed_looks: int = field(default=0, init=False)
    _idle_looks: dict[str, int] = field(default_factory=dict, init=False)
    _asked: dict[str, str] = field(default_factory=dict, init=False)
    """When Argo CD had last compared a release at the moment it was asked to look again."""
    _seen: Observation | None = field(default=None, init=False)
    _started_jobs: set[str] = field(default_factory=set, init=False)
    _asked_since: float | None = field(default=None, init=False)
    _trials: dict[str, str] = field(default_factory=dict, init=False)
    """Jobs that try the image of a release that is scaled to zero, by release."""

    def wait(self) -> list[Finding]:
        """The findings of a deployment that succeeded.

        Raises FailedError, TimedOutError, SupersededError or NotFoundError, each with causes.
        The API server or the Git remote being away for a moment only costs time.
        """
        try:
            return self._wait()
        finally:
            self._end_trials()

    def _wait(self) -> list[Finding]:
        deadline = self.clock() + self.timeout
        self._refresh()
        findings: list[Finding] = []
        trouble: UnreachableError | None = None
        while True:
            try:
                findings = self._look()
                trouble = None
                self.progress(findings)
                if all(f.state in (State.DEPLOYED, State.ABSENT) and f.verified for f in findings):
                    findings = self._users_answered(self._answered(findings))
                    if all(f.state in (State.DEPLOYED, State.ABSENT) for f in findings):
                        return findings
                self._judge(findings)
            except UnreachableError as error:
                trouble = error
            if self.clock() >= deadline:
                raise self._timed_out(findings, trouble)
            time.sleep(self.poll)

    def _look(self) -> list[Finding]:
        self._check_superseded()
        releases = list(self.target.wanted)
        seen = self.cluster.observe(self.target.environment, releases)
        if self.preempt and not self.dry_run:
            self._preempt(seen)
        for release, app in seen.applications.items():
            if mark := offline_mark.read(app):
                raise HeldError(
                    f"Argo CD leaves {self.target.environment} alone: {release} was {mark}.",
                    fix=f"`release reconcile --env {self.target.environment}`",
                )
        findings = [self._find(release, seen) for release in releases]
        if self._seen is None and self.requests is not None:
            self.requests.begin(seen, time.time())
        self._seen = seen
        findings = [self._addressed(finding, seen) for finding in findings]
        if self.run_cronjobs and not self.dry_run:
            self._prove(findings, seen)
            return findings
        if self.dry_run:
            return [replace(f, verified=True) for f in findings]
        # A CronJob runs by itself in time; what is scaled to zero may stay so for ever.
        return [replace(f, verified=f.verified or f.scaled_to_zero) for f in findings]

    def _preempt(self, seen: Observation) -> None:
        for release, app in seen.applications.items():
            operation = app.get("status", {}).get("operationState", {})
            # One that has just begun, perhaps at our own wish, names no revision yet.
            revision = (operation.get("syncResult") or {}).get("revision", "")
            running = operation.get("phase") == "Running"
            if running and revision and not self._reached(revision):
                with contextlib.suppress(NotFoundError, ForbiddenError):
                    self.cluster.terminate(self.target.environment, release)

    def _check_superseded(self) -> None:
        """Others may have deployed meanwhile: then this commit's verdict is of no use any more."""
        head = self.repo.fetch()
        at = CommitTree(self.repo.git, head)
        now = deployments.files_at(at, self.target.environment, self.target.services)
        if now != self.target.files:
            newest = deployments.log(
                self.repo.git, head, self.target.environment, self.target.services, limit=1
            )
            by = newest[0].commit[:12] if newest else head[:12]
            raise SupersededError(
                f"{self.target.environment} at {self.target.commit[:12]} was superseded by {by}.",
                fix="nothing to do; the newer deployment gets a verdict of its own",
            )

    def _find(self, release: str, seen: Observation) -> Finding:
        wanted = self.target.wanted[release]
        finding = find(release, wanted, seen)
        app = seen.applications.get(release)
        if app is None:
            return replace(finding, state=State.PROGRESSING)
        if not self._reached(finding.revision):
            at = finding.revision[:12] or "no commit"
            deaf = REFRESH in app["metadata"].get("annotations", {})
            asked = ", and has not looked since it was asked: does it run?" if deaf else ""
            behind = Cause("behind", f"Argo CD is at {at}{asked}")
            # What cannot be rendered is never synced: then this is as far as it gets.
            broken = any(
                cause.final and (cause.kind == "schema" or cause.kind.endswith("Error"))
                for cause in finding.causes
            )
            stuck = broken and self._compared(release, app)
            state = State.FAILED if stuck else State.PROGRESSING
            return replace(finding, state=state, causes=(*finding.causes, behind))
        if finding.state is State.FAILED and not is_applied(release, app):
            of_argo = [one for one in finding.causes if one.final and one.kind not in OF_PODS]
            if not of_argo:
                old = Cause("unapplied", "Argo CD has not applied this: what fails ran before it")
                return replace(finding, state=State.PROGRESSING, causes=(*finding.causes, old))
        if self._idle(release, app) and finding.state is not State.FAILED:
            closed = Cause(
                "idle", "Argo CD applies nothing: is a sync window of its project closed?"
            )
            return replace(finding, state=State.PROGRESSING, causes=(*finding.causes, closed))
        if not reconciled_after_operation(app) and finding.state is not State.FAILED:
            early = Cause("early", "Argo CD has not looked at the cluster since it applied this")
            return replace(finding, state=State.PROGRESSING, causes=(*finding.causes, early))
        return finding

    def _idle(self, release: str, app: Object) -> bool:
        """Whether Argo CD knows of the commit and has not begun to apply it for some looks.

        A rollback asks for the sync by hand then, once: a closed window may let that through.
        """
        status = app.get("status", {})
        phase = status.get("operationState", {}).get("phase")
        waiting = status.get("sync", {}).get("status") == "OutOfSync"
        begun = app.get("operation") is not None or phase == "Running"
        self._idle_looks[release] = (
            self._idle_looks.get(release, 0) + 1 if waiting and not begun else 0
        )
        if self._idle_looks[release] == IDLE_LOOKS and self.preempt and not self.dry_run:
            self.cluster.sync(app, "release")
        return self._idle_looks[release] >= IDLE_LOOKS

    def _reached(self, revision: str) -> bool:
        """Whether what Argo CD synced has the commit in it."""
        git = self.repo.git
        return git.resolve(revision) is not None and git.is_ancestor(self.target.commit, revision)

    def _prove(self, findings: list[Finding], seen: Observation) -> None:
        """Run what nothing runs: that it was applied says nothing of its image."""
        for finding in findings:
            if finding.verified or finding.state is not State.DEPLOYED:
                continue
            if finding.scaled_to_zero:
                self._try(finding, seen)
                continue
            cronjob = next(c for c in seen.cronjobs if c["metadata"]["name"] == finding.release)
            name = verification_job(cronjob)
            if name in self._started_jobs or any(j["metadata"]["name"] == name for j in seen.jobs):
                continue
            self.cluster.create_job(self.target.environment, run_as_job(cronjob, name))
            self._started_jobs.add(name)

    def _try(self, finding: Finding, seen: Observation) -> None:
        if finding.release in self._trials:
            return
        deployment = next(d for d in seen.deployments if d["metadata"]["name"] == finding.release)
        name = f"{finding.release[:40]}-try-{secrets.token_hex(4)}"
        self.cluster.create_job(
            self.target.environment, try_as_job(deployment, name, math.ceil(self.timeout) + 60)
        )
        self._trials[finding.release] = name

    def _end_trials(self) -> None:
        for name in self._trials.values():
            # One that stays ends by its own deadline.
            with contextlib.suppress(ReleaseError):
                self.cluster.delete_job(self.target.environment, name)
        self._trials.clear()

    def _addressed(self, finding: Finding, seen: Observation) -> Finding:
        """The finding, with why its Service leads nowhere: that is so whatever Argo CD is at."""
        if self.checks is not None:
            finding = failed_if_scaled_down(finding, self.checks.plan.without_pods)
        called = self.checks is not None and finding.release in self.checks.plan.addresses
        if not called or finding.state is not State.PROGRESSING or finding.scaled_to_zero:
            return finding
        problem = endpoints.problem(finding.release, seen.endpointslices)
        if problem is None:
            return finding
        return replace(
            finding, causes=(*finding.causes, Cause("endpoints", problem.text, fix=problem.fix))
        )

    def _answered(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings with what is wrong with their services' answers.

        An answer that is not good yet is waited for; after ``ANSWER_SECONDS`` it never will be.
        """
        if self.checks is None or self.dry_run or self._seen is None:
            return list(findings)
        now = self.clock()
        self._asked_since = now if self._asked_since is None else self._asked_since
        zero = {finding.release for finding in findings if finding.scaled_to_zero}
        problems = self.checks.look(self._seen, zero)
        late = self.clock() - self._asked_since >= min(ANSWER_SECONDS, self.timeout)
        state = State.FAILED if late else State.PROGRESSING
        causes: dict[str, list[Cause]] = {}
        for release, problem in problems:
            causes.setdefault(release, []).append(
                Cause("check", problem.text, final=late, fix=problem.fix)
            )
        return [
            replace(finding, state=state, causes=(*finding.causes, *causes[finding.release]))
            if finding.release in causes
            else finding
            for finding in findings
        ]

    def _users_answered(self, findings: list[Finding]) -> list[Finding]:
        """The findings with the share of users' requests that came to nothing, if it is too high.

        Asked last: while anything else is wrong there is no verdict to fail.
        """
        good = all(finding.state in (State.DEPLOYED, State.ABSENT) for finding in findings)
        if self.requests is None or self._seen is None or not good:
            return findings
        problems = dict(self.requests.look(self._seen))
        return [
            replace(
                finding,
                state=State.FAILED,
                causes=(*finding.causes, Cause("requests", one.text, final=True, fix=one.fix)),
            )
            if (one := problems.get(finding.release)) is not None
            else finding
            for finding in findings
        ]

    def _judge(self, findings: Sequence[Finding]) -> None:
        failed = [finding for finding in findings if finding.state is State.FAILED]
        self._failed_looks = self._failed_looks + 1 if failed else 0
        if self._failed_looks < LOOKS:
            return
        environment = self.target.environment
        explained = [explain.with_reasons(self.cluster, environment, one) for one in failed]
        back = f"`release rollback --env {environment}`, or push a newer build"
        advice = explain.advice(explained)
        raise FailedError(
            f"{environment} at {self.target.commit[:12]} failed. {explain.sentence(explained)}",
            fix=f"{advice}; or {back}" if advice else back,
        )

    def _timed_out(
        self, findings: Sequence[Finding], trouble: UnreachableError | None
    ) -> ReleaseError:
        if trouble is not None:
            return trouble
        late = [f for f in findings if f.state is not State.DEPLOYED or not f.verified]
        missing = [f.release for f in late if any(c.kind == "no Application" for c in f.causes)]
        environment = self.target.environment
        if missing:
            return NotFoundError(
                f"Argo CD has no Application {', '.join(f'{environment}-{m}' for m in missing)}.",
                fix=f"apply argocd/environments/{environment}.yaml, or look at the status of its "
                "ApplicationSet",
            )
        explained = [explain.with_reasons(self.cluster, environment, one) for one in late]
        return TimedOutError(
            f"{environment} at {self.target.commit[:12]} has no verdict after "
            f"{self.timeout:g} seconds. {explain.sentence(explained)}",
            fix=explain.advice(explained) or "raise --timeout, or look at `release status`",
        )

    def _refresh(self) -> None:
        """Have Argo CD look immediately; where that is not allowed its own poll will do."""
        for release in () if self.dry_run else self.target.wanted:
            self._ask(release)

    def _ask(self, release: str) -> None:
        with contextlib.suppress(NotFoundError, ForbiddenError, UnreachableError):
            seen = self.cluster.refresh(self.target.environment, release)
            self._asked[release] = seen.get("status", {}).get("reconciledAt", "")

    def _compared(self, release: str, app: Object) -> bool:
        """Whether Argo CD has looked at Git since it was asked to: the commit was there by then."""
        if self.dry_run or REFRESH in app["metadata"].get("annotations", {}):
            return False
        if app.get("status", {}).get("reconciledAt", "") != self._asked.get(release, ""):
            return True
        self._ask(release)  # its clock counts in seconds: this one looks like the one before
        return False
