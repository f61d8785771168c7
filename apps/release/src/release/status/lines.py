"""`release status`: the lines of an environment with what the cluster itself says of each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

from release.checks import plan
from release.cluster.client import Cluster, Observation
from release.diagnosis.releases import State
from release.errors import NotFoundError, ReleaseError
from release.git.commit_tree import CommitTree
from release.live import gateway, objects, served_models, traffic, verified_manifests
from release.live.traffic import NO_PROMETHEUS, Prometheus, Traffic
from release.status import table
from release.status.table import Line


def lines(
    cluster: Cluster,
    at: CommitTree,
    environment: str,
    seen: Observation,
    now: datetime,
    *,
    named: Sequence[str] = (),
    prometheus: Prometheus | None = None,
) -> list[Line]:
    """All lines, or those of the releases that are ``named``."""
    known = verified_manifests.manifests(cluster, at, environment)
    live = objects.live(cluster, seen.applications, known)
    kept_out = gateway.causes(cluster, plan.read(at, environment).routing, now)
    made = [
        line
        for line in table.lines(at, environment, seen, now, live=live, kept_out=kept_out)
        if not named or line.finding.release in named
    ]
    with ThreadPoolExecutor(max(1, len(made))) as pool:
        return list(
            pool.map(
                lambda line: _with_models(
                    cluster,
                    replace(line, traffic=_traffic(cluster, line, seen, bool(named), prometheus)),
                    seen,
                ),
                made,
            )
        )


def _with_models(cluster: Cluster, line: Line, seen: Observation) -> Line:
    """The line with what its pods serve, where they are of a model server."""
    release = line.finding.release
    pods = traffic.running_pods(release, seen.pods)
    try:
        serving = served_models.of_pods(cluster, line.environment, release, pods)
    except ReleaseError as error:
        return replace(line, serving=f"served models not known: {error.message[:80]}")
    if not serving:
        return line
    settled = line.finding.state is State.DEPLOYED
    found = served_models.causes(line.models, serving, settled=settled)
    return replace(line, serving=serving, finding=table.failed_if_final(line.finding, found))


def _traffic(
    cluster: Cluster, line: Line, seen: Observation, named: bool, prometheus: Prometheus | None
) -> Traffic | str:
    release = line.finding.release
    if line.endpoints is None:
        return "-"
    try:
        if prometheus is not None:
            return prometheus.traffic(line.environment, release) or "none"
        if not named:
            return NO_PROMETHEUS
        pods = traffic.running_pods(release, seen.pods)
        return traffic.from_pods(cluster, line.environment, release, pods)
    except NotFoundError:
        return "its image has neither python3 nor curl"
    except ReleaseError as error:
        return f"not known: {error.message[:80]}"
