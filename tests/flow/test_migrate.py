"""A move of values reaches Argo CD together with the ApplicationSets that know of it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import yaml

from cluster.kube import Kubectl
from flow import migrate
from flow.errors import FlowError
from tests.flow.conftest import SOURCE

SHIPPED = yaml.safe_load((SOURCE / "argocd/environments/dev.yaml").read_text())


def moved() -> dict[str, Any]:
    """dev's ApplicationSet as it was when values/base was there."""
    text = (SOURCE / "argocd/environments/dev.yaml").read_text()
    old: dict[str, Any] = yaml.safe_load(text.replace("values/services/", "values/base/"))
    return old


class Cluster:
    """What `paused` asks kubectl for, answered from lists; what it is told is kept."""

    def __init__(self, *sets: dict[str, Any]) -> None:
        self.sets = list(sets)
        self.applications = [
            {"metadata": {"name": "dev-proxy"}},
            {"metadata": {"name": "dev-unzip", "annotations": {migrate.OFFLINE: "ada"}}},
        ]
        self.told: list[str] = []

    def get(self, kind: str, *_: str) -> dict[str, Any]:
        if kind == "applicationsets":
            return {"items": self.sets}
        return {"items": self.applications}

    def run(self, *arguments: str) -> str:
        self.told.append(" ".join(arguments))
        return ""


def test_what_is_shipped_is_not_outdated() -> None:
    assert migrate.outdated([SHIPPED], SOURCE) == []
    assert migrate.outdated([moved(), SHIPPED], SOURCE) == ["dev"]
    gone = yaml.safe_load(yaml.safe_dump(moved()).replace("dev", "qa"))
    assert migrate.outdated([gone], SOURCE) == [], "an environment that was given up"
    assert migrate.outdated([{"spec": {"template": {}}}], SOURCE) == [], "somebody else's"


def test_applications_wait_until_their_application_set_is_new() -> None:
    """Found: between the two, unzip was made a Deployment and every selector was refused."""
    cluster = Cluster(moved())
    with migrate.paused(cast(Kubectl, cluster), SOURCE):
        assert cluster.told == [
            f"annotate --overwrite application/dev-proxy -n argocd {migrate.WAIT}=true"
        ], "one that was rolled back offline is left alone"
        cluster.sets = [SHIPPED]
    assert cluster.told[1:] == [f"annotate application/dev-proxy -n argocd {migrate.WAIT}-"]


def test_nothing_waits_where_nothing_was_moved() -> None:
    cluster = Cluster(SHIPPED)
    with migrate.paused(cast(Kubectl, cluster), SOURCE):
        pass
    assert cluster.told == []


def test_an_application_set_that_never_comes_is_said_and_the_wait_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrate, "SECONDS", 0.0)
    cluster = Cluster(moved())
    with (
        pytest.raises(FlowError, match=r"argocd/environments/dev\.yaml"),
        migrate.paused(cast(Kubectl, cluster), SOURCE),
    ):
        pass
    assert len(cluster.told) == 1, "nothing is rendered by halves"


def test_a_push_that_fails_leaves_nothing_waiting_for_good() -> None:
    cluster = Cluster(moved())
    with pytest.raises(FlowError), migrate.paused(cast(Kubectl, cluster), SOURCE):
        raise FlowError("refused")
    assert cluster.told[-1] == f"annotate application/dev-proxy -n argocd {migrate.WAIT}-"
