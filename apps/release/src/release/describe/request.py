"""A request: which containers logged it, and what these ran."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from release.cluster.client import Cluster, Object
from release.describe.deployed import Known
from release.describe.facts import Description
from release.describe.pod import add_pod
from release.errors import NotFoundError, ReleaseError

LINES = 20_000
"""Newest lines of a container's log that are read."""
SHOWN = (
    "time", "timestamp", "start_time", "level", "message", "event", "method", "path",
    "response_code", "status", "response_flags", "model", "version", "duration", "error",
    "upstream_host",
)  # fmt: skip
"""Fields of a line of JSON that are shown; the log itself has all of them."""
_AT_ONCE = 8


def describe(
    known: Known, identity: str, environments: Sequence[str], cluster: Cluster
) -> Description:
    """The log lines of a request id, and the pods that wrote them.

    Raises NotFoundError where no log speaks of it.
    """
    found = Description("request-id", identity)
    lines = found.part("log lines")
    wrote: dict[tuple[str, str], Object] = {}
    read = 0
    for environment in environments:
        try:
            pods = cluster.list(f"/api/v1/namespaces/{environment}/pods")
        except ReleaseError as error:
            found.gaps.append(f"the pods of {environment} are not known: {error.message}")
            continue
        containers = [
            (pod, container["name"]) for pod in pods for container in pod["spec"]["containers"]
        ]
        read += len(containers)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            logs = pool.map(lambda one: _log(cluster, environment, *one), containers)  # noqa: B023 - the pool ends before the next environment
            for (pod, container), log in zip(containers, logs, strict=True):
                name = pod["metadata"]["name"]
                for line in _speaking_of(log, identity):
                    lines.add(f"{environment}/{container}", line, f"pod {name}")
                    wrote[environment, name] = pod
    if not wrote:
        raise NotFoundError(
            f"No log of a pod that runs speaks of the request {identity!r} (the newest {LINES:,} "
            f"lines of {read} containers in {', '.join(environments)}).",
            fix="logs of pods that are gone, and older lines, are where your cluster ships logs "
            "to; the prediction log (docs/inference.md) has every prediction by this id",
        )
    for (environment, _), pod in wrote.items():
        add_pod(found, known, environment, pod, cluster)
    found.gaps.append(
        "pods that are gone and lines that were rotated away are not looked at, nor the "
        "prediction log in S3"
    )
    return found


def _log(cluster: Cluster, environment: str, pod: Object, container: str) -> str:
    return cluster.logs(environment, pod["metadata"]["name"], container, lines=LINES)


def _speaking_of(log: str, identity: str) -> Iterator[str]:
    for line in log.splitlines():
        if identity not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            yield line.strip()[:300]
            continue
        if not isinstance(entry, dict):
            continue
        shown = [f"{key}={entry[key]}" for key in SHOWN if entry.get(key) not in (None, "", "-")]
        yield " ".join(shown)[:300]
