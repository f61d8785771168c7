"""Argo CD brings a subset before the route that names it, and takes it away afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from flow import site as sites
from tests import programs
from tests.charts.load import RATE, assert_none_failed, load
from tests.charts.rendering import ROOT
from tests.charts.scratch import (
    FIXTURES,
    HOST,
    NAMESPACE,
    Scratch,
    eventually,
    kubeconfig,
    kubectl,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SUBSET = {"model": {"app.kubernetes.io/name": "inference"}}


class Application:
    """The scratch namespace's routes, as Argo CD applies them.

    The chart is the one that was committed here last, on a branch of the manifest repo.
    """

    def __init__(self) -> None:
        path = "jsonpath={.spec.source.repoURL}"
        self.repository = kubectl("get", "application", "dev-routing", "-n", "argocd", "-o", path)
        self.server = "https://kubernetes.default.svc"
        self.manifest_repo = sites.one_machine().manifest_repo
        self._drop_branch()
        reference = f"HEAD:refs/heads/{NAMESPACE}"
        push = ["git", "-C", str(ROOT), "push", "--quiet", str(self.manifest_repo), reference]
        subprocess.run(push, check=True)

    def _drop_branch(self) -> None:
        # Not by a push: the repo refuses those that take something away.
        branch = f"refs/heads/{NAMESPACE}"
        drop = ["git", "-C", str(self.manifest_repo), "update-ref", "-d", branch]
        subprocess.run(drop, check=True)

    def remove(self) -> None:
        """Take the application away, its routes not, and the branch."""
        for kind in ("application", "appproject"):
            kubectl("delete", kind, NAMESPACE, "-n", "argocd", "--ignore-not-found")
        self._drop_branch()

    def sync(self, services: dict[str, Any]) -> None:
        """Have Argo CD bring these changes of the fixture's services, and wait until it has."""
        values = yaml.safe_load((FIXTURES / "routing.yaml").read_text(encoding="utf-8"))
        for name, changes in services.items():
            values["services"][name] |= changes
        source = {
            "repoURL": self.repository,
            "targetRevision": NAMESPACE,
            "path": "charts/routing",
            "helm": {"releaseName": "routing", "valuesObject": {**values, "hosts": [HOST]}},
        }
        destination = {"server": self.server, "namespace": NAMESPACE}
        kubectl(
            *("apply", "--server-side", "--force-conflicts", "-f", "-"),
            text=json.dumps(
                {
                    "apiVersion": "argoproj.io/v1alpha1",
                    "kind": "Application",
                    "metadata": {"name": NAMESPACE, "namespace": "argocd"},
                    "spec": {
                        "project": NAMESPACE,
                        "source": source,
                        "destination": destination,
                        "syncPolicy": {
                            "automated": {"prune": True},
                            "syncOptions": ["ServerSideApply=true"],
                        },
                    },
                }
            ),
        )

        def synced() -> bool:
            found = kubectl("get", "application", NAMESPACE, "-n", "argocd", "-o", "json")
            status = json.loads(found).get("status", {})
            return bool(
                status.get("sync", {}).get("status") == "Synced"
                and status["sync"]["comparedTo"]["source"] == source
                and status.get("operationState", {}).get("phase", "Succeeded") == "Succeeded"
            )

        eventually(synced, bool, 120)


@pytest.fixture
def application(scratch: Scratch) -> Iterator[Application]:
    project = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": NAMESPACE, "namespace": "argocd"},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"server": "*", "namespace": NAMESPACE}],
            "namespaceResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    }
    kubectl("apply", "--server-side", "-f", "-", text=json.dumps(project))
    made = Application()
    try:
        made.sync({})
        yield made
    finally:
        made.remove()
        scratch.routes()


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Write every change of the namespace's routes and their rules to a file per kind."""
    watches = []
    for kind in ("virtualservices", "destinationrules"):
        with (folder / kind).open("wb") as output:
            command = (programs.require("kubectl"), f"--kubeconfig={kubeconfig()}", "get", kind)
            options = ("-n", NAMESPACE, "--watch", "--output-watch-events", "-o", "json")
            watches.append(subprocess.Popen([*command, *options], stdout=output))
    try:
        yield
    finally:
        for watch in watches:
            watch.terminate()
            watch.wait()


def _events(path: Path) -> Iterator[dict[str, Any]]:
    text, decoder = path.read_text(encoding="utf-8").strip(), json.JSONDecoder()
    while text:
        event, end = decoder.raw_decode(text)
        yield event
        text = text[end:].lstrip()


def _seen(folder: Path) -> list[str]:
    """What came and went, in the store's order: ``+rule``, ``-rule``, ``+route``, ``-route``."""
    events = [event for path in folder.iterdir() for event in _events(path)]
    events.sort(key=lambda event: int(event["object"]["metadata"]["resourceVersion"]))
    found = []
    for event in events:
        thing = event["object"]
        kind, name = thing["kind"], thing["metadata"]["name"]
        if kind == "DestinationRule" and name == "inference.model":
            # What is told to go and still there counts as there.
            found.append("-rule" if event["type"] == "DELETED" else "+rule")
        if kind == "VirtualService" and name == "public":
            names = '"subset": "model"' in json.dumps(thing["spec"])
            found.append("+route" if names else "-route")
    # Only what changed: each of the two comes and goes by itself.
    seen: list[str] = []
    for one in found:
        last = [before for before in seen if before[1:] == one[1:]]
        if not last or last[-1] != one:
            seen.append(one)
    return seen


def test_a_subset_comes_before_its_route_and_goes_after_it(
    application: Application, tmp_path: Path
) -> None:
    changes = tmp_path / "changes"
    changes.mkdir()
    split = {"inference": {"subsets": SUBSET, "split": {"inference/model": 100}}}
    with watched(changes), load(tmp_path, RATE) as end:
        application.sync(split)
        application.sync({})
        assert_none_failed(end())
    assert _seen(changes) == ["-route", "+rule", "+route", "-route", "-rule"]
