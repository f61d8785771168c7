"""The models that the pods of a model server really serve, asked of each of them.

Source: the "Model Repository" extension of the Open Inference Protocol, `POST
/v2/repository/index`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from release.cluster import pod_request
from release.cluster.client import Cluster, Object
from release.diagnosis.causes import Cause, short
from release.errors import ReleaseError
from release.live.traffic import SIDE_BY_SIDE
from release.values.references import Model

COMPONENT = "app.kubernetes.io/component"
MODEL_SERVER = "model-server"
INDEX = "/v2/repository/index"
NOT_LOADED = "not loaded"
"""The server's reason for a version that nobody asked it to load."""
_FIX = (
    "`release model list` says what Git wants; correct the model and publish it as a version of "
    "its own, or roll back"
)


@dataclass(frozen=True, order=True)
class ServedModel:
    """A version of a model in a server's index; ``reason`` says why it is not ready."""

    name: str
    version: str
    ready: bool
    reason: str = ""

    @property
    def short(self) -> str:
        """For tables: ``digits/3``, with a mark where it is not ready."""
        return f"{self.name}/{self.version}" + ("" if self.ready else " (not served)")


Seen = Mapping[str, Sequence[ServedModel]]
"""What each pod serves, by the pod's name."""


def of_pods(cluster: Cluster, environment: str, release: str, pods: Iterable[Object]) -> Seen:
    """What each pod of a model server serves; no pod of another kind of service is asked.

    Raises ReleaseError where one cannot be asked.
    """
    asked = [
        pod for pod in pods if pod["metadata"].get("labels", {}).get(COMPONENT) == MODEL_SERVER
    ]

    def index(pod: Object) -> list[ServedModel]:
        request = pod_request.to_container(pod, release, INDEX, "POST", "{}")
        name = pod["metadata"]["name"]
        answer = pod_request.ask(cluster, environment, name, release, request)
        if answer.status != 200:
            raise ReleaseError(
                f"{name} answered {answer.status} {answer.error or answer.body[:80]}"
            )
        return read(answer.body)

    with ThreadPoolExecutor(min(SIDE_BY_SIDE, len(asked) or 1)) as pool:
        names = [pod["metadata"]["name"] for pod in asked]
        return dict(zip(names, pool.map(index, asked), strict=True))


def read(text: str) -> list[ServedModel]:
    """A repository index.

    Raises ReleaseError for what is none.
    """
    try:
        return [
            ServedModel(row["name"], row["version"], row["state"] == "READY", row.get("reason", ""))
            for row in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ReleaseError(f"its index of models cannot be read: {error!r}") from error


def causes(wanted: Sequence[Model], seen: Seen, *, settled: bool) -> list[Cause]:
    """What pods do not serve, with the server's own reason for it.

    A model that failed to load is named always. One that Git wants and a pod does not have is
    named only where the rollout has ``settled``: until then some pods have what was wanted before.
    """
    found: dict[str, Cause] = {}
    of_git = {(model.name, model.version) for model in wanted}
    for pod, models in seen.items():
        ready = {(one.name, one.version) for one in models if one.ready}
        failed = [one for one in models if not one.ready and one.reason != NOT_LOADED]
        for one in failed:
            text = f"{pod} could not load {one.name}/{one.version}: {short(one.reason)}"
            final = settled and (one.name, one.version) in of_git
            found[text] = Cause("model", text, final=final, fix=_FIX)
        named = {(one.name, one.version) for one in failed}
        for name, version in sorted(of_git - ready - named if settled else ()):
            text = f"{pod} does not serve {name}/{version}, which Git wants"
            found[text] = Cause("model", text, final=True, fix=_FIX)
    return list(found.values())


def in_short(seen: Seen) -> str:
    """For a table: every model that a pod serves or could not load, each once."""
    models = {one for served in seen.values() for one in served if one.reason != NOT_LOADED}
    return ", ".join(one.short for one in sorted(models)) or "none"
