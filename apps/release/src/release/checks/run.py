"""One look at whether an environment's services answer: addresses first, then every question."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from release.checks import endpoints
from release.checks.answers import Problem
from release.checks.ask import PROBE_KEY, PROBE_SECRET, Asker, Result, secret_value
from release.checks.plan import Plan
from release.cluster.client import Cluster, ForbiddenError, Observation
from release.cluster.snapshots import Manifests
from release.live import gateway, objects

MISSING_SERVICE = "missing: Service "


@dataclass
class Checks:
    """The questions of a plan, asked again at every look."""

    cluster: Cluster
    plan: Plan
    verified: Manifests = field(default_factory=dict)
    """What Argo CD had applied when this state was last verified, by release."""
    notes: list[str] = field(default_factory=list)
    """What could not be asked or is only partly true, for people."""

    def look(
        self, seen: Observation, without_pods: Collection[str] = ()
    ) -> list[tuple[str, Problem]]:
        """What is wrong, each with the release it is about; empty where all is good.

        ``without_pods`` are releases that are meant to have none now: they are not asked.
        """
        self.notes = list(self.plan.notes)
        # It may answer for a moment after its last pod was asked to end.
        self.notes += [str(one) for one in gateway.of_its_pods(self.cluster, self.plan.routing)]
        found = self._contradictions(seen)
        said = {name for name, one in found if one.text.startswith(MISSING_SERVICE)}
        found += [
            (name, problem)
            for name in self.plan.addresses
            if name not in {*without_pods, *said}
            and (problem := endpoints.problem(name, seen.endpointslices)) is not None
        ]
        for result in self.results(seen):
            if result.question.release in without_pods:
                continue
            if not result.asked:
                self.notes.append(f"{result.question} is not asked: {result.problem}.")
            elif result.problem is not None:
                found.append((result.question.release, _of(result)))
        return found

    def _contradictions(self, seen: Observation) -> list[tuple[str, Problem]]:
        """What the cluster itself says against Argo CD's word; the gateway itself is asked."""
        now = datetime.now(UTC)
        live = objects.live(self.cluster, seen.applications, self.verified)
        found = [
            (release, cause)
            for release, app in seen.applications.items()
            for cause in objects.causes(app, live[release], now)
        ]
        if (release := self.plan.routing_release) in seen.applications:
            kept_out = gateway.of_its_certificate(self.cluster, self.plan.routing, now)
            found += [(release, cause) for cause in kept_out]
        return [(release, Problem(str(one), one.fix)) for release, one in found if one.final]

    def results(self, seen: Observation) -> Sequence[Result]:
        """Every question's answer."""
        key = self._key()
        if not key and self.plan.questions:
            self.notes.append(
                f"The checks count as requests of users: there is no Secret {PROBE_SECRET} with "
                f"{PROBE_KEY} in {self.plan.environment}."
            )
        return Asker(self.cluster, self.plan, seen.pods, key).ask()

    def _key(self) -> str:
        if given := os.environ.get(PROBE_KEY):
            return given
        try:
            found = secret_value(self.cluster, self.plan.environment, PROBE_SECRET, PROBE_KEY)
        except ForbiddenError:
            return ""
        return found or ""


def _of(result: Result) -> Problem:
    assert result.problem is not None
    return Problem(f"{result.question}: {result.problem.text}", result.problem.fix)
