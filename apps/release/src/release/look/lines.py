"""`release status`: the lines of an environment with what the cluster itself says of each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

from release import status
from release.checks.ask import INSTANCE
from release.cluster import Cluster, Observation
from release.diagnosis import Cause, Finding, State
from release.errors import NotFoundError, ReleaseError
from release.git import CommitTree
from release.look import objects, traffic
from release.look.traffic import NO_PROMETHEUS, Prometheus, Traffic
from release.status import Line
from release.verify import last_error


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
    gone = objects.missing(cluster, seen.applications)
    made = [
        line
        for line in status.lines(at, environment, seen, now, gone)
        if not named or line.finding.release in named
    ]
    with ThreadPoolExecutor(max(1, len(made))) as pool:
        return list(
            pool.map(
                lambda line: replace(
                    line,
                    finding=_with_logs(cluster, environment, line.finding),
                    traffic=_traffic(cluster, line, seen, bool(named), prometheus),
                ),
                made,
            )
        )


def _with_logs(cluster: Cluster, environment: str, finding: Finding) -> Finding:
    """Each cause with the last error that its container logged: why it is not ready yet."""
    if finding.state not in (State.PROGRESSING, State.FAILED):
        return finding

    def explained(cause: Cause) -> Cause:
        if cause.log is None:
            return cause
        pod, container, previous = cause.log
        said = last_error(cluster.logs(environment, pod, container, previous=previous))
        return replace(cause, text=f"{cause.text} [{said}]") if said else cause

    return replace(finding, causes=tuple(map(explained, finding.causes)))


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
        pods = [
            pod
            for pod in seen.pods
            if pod["metadata"].get("labels", {}).get(INSTANCE) == release
            and pod.get("status", {}).get("phase") == "Running"
        ]
        return traffic.from_pods(cluster, line.environment, release, pods)
    except NotFoundError:
        return "its image has no python3"
    except ReleaseError as error:
        return f"not known: {error.message[:80]}"
