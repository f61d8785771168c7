"""A request: which containers logged it, what these ran, and what serves the model it asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from release.changes.models import models_of
from release.cluster.client import Cluster, Object
from release.describe.deployed import Known, describe_releases
from release.describe.facts import Description
from release.describe.pod import add_pod
from release.diagnosis.jobs import INSTANCE
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
    models: set[tuple[str, str]] = set()
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
                for entry in _speaking_of(log, identity):
                    lines.add(f"{environment}/{container}", in_short(entry), f"pod {name}")
                    wrote[environment, name] = pod
                    models.add((environment, str(entry.get("model", ""))))
    if not wrote:
        raise NotFoundError(
            f"No log of a pod that runs speaks of the request {identity!r} (the newest {LINES:,} "
            f"lines of {read} containers in {', '.join(environments)}).",
            fix="logs of pods that are gone, and older lines, are where your cluster ships logs "
            "to; the prediction log (docs/inference.md) has every prediction by this id",
        )
    for (environment, _), pod in wrote.items():
        add_pod(found, known, environment, pod, cluster)
    described = {pod["metadata"].get("labels", {}).get(INSTANCE) for pod in wrote.values()}
    for environment, model in sorted(models):
        served = [
            (environment, release)
            for release, one in models_of(known.at, environment)
            if one.name == model and release not in described
        ]
        describe_releases(found, known, served)
    found.gaps.append(
        "pods that are gone and lines that were rotated away are not looked at, nor the "
        "prediction log in S3"
    )
    return found


def _log(cluster: Cluster, environment: str, pod: Object, container: str) -> str:
    return cluster.logs(environment, pod["metadata"]["name"], container, lines=LINES)


def _speaking_of(log: str, identity: str) -> Iterator[dict[str, Any]]:
    """The lines that have the id, as objects; a line that is none is its ``message``."""
    for line in log.splitlines():
        if identity not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"message": line.strip()}
        if isinstance(entry, dict):
            yield entry


def in_short(entry: Mapping[str, Any]) -> str:
    """The fields of a log line that are shown, at most 300 characters."""
    shown = [f"{key}={entry[key]}" for key in SHOWN if entry.get(key) not in (None, "", "-")]
    return " ".join(shown)[:300]
