"""A move of values reaches Argo CD together with the ApplicationSets that know of it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import yaml

from cluster.kube import Kubectl
from flow import migrate, stages
from flow.errors import FlowError
from flow.site import Site
from release.cluster import offline_mark
from tests.flow.conftest import SOURCE

SHIPPED = yaml.safe_load((SOURCE / "argocd/environments/dev.yaml").read_text())


def moved() -> dict[str, Any]:
    """dev's ApplicationSet as it was when values/base was there."""
    text = (SOURCE / "argocd/environments/dev.yaml").read_text()
    old: dict[str, Any] = yaml.safe_load(text.replace("values/services/", "values/base/"))
    return old


class Cluster:
    """What a move asks kubectl for, with the annotations that it writes."""

    repo_url = manifest_repo = ""

    def __init__(self, application_set: dict[str, Any]) -> None:
        self.applications = [
            {"metadata": {"name": "dev-proxy", "annotations": {}}},
            {"metadata": {"name": "dev-unzip", "annotations": {offline_mark.MARK: "ada"}}},
        ]
        self.application_set = application_set
        self.application_set["metadata"].setdefault("annotations", {})
        self.told = 0

    @property
    def kubectl(self) -> Kubectl:
        return cast(Kubectl, self)

    @property
    def waiting(self) -> list[str]:
        """The applications that are told to wait."""
        every = (one["metadata"] for one in self.applications)
        return [one["name"] for one in every if offline_mark.SKIP in one["annotations"]]

    def becomes(self, application_set: dict[str, Any]) -> None:
        """The root applies another one; annotations that it does not know stay."""
        kept = self.application_set["metadata"]["annotations"]
        self.application_set = {**application_set, "metadata": {"name": "dev", "annotations": kept}}

    def items(self, kind: str, *_: str) -> list[dict[str, Any]]:
        return [self.application_set] if kind == "applicationsets" else self.applications

    def run(self, *arguments: str) -> str:
        assert arguments[:2] == ("annotate", "--overwrite")
        self.told += 1
        every = {f"application/{one['metadata']['name']}": one for one in self.applications}
        every["applicationset/dev"] = self.application_set
        key, _, value = arguments[-1].partition("=")
        for name in (one for one in arguments if one in every):
            annotations = every[name]["metadata"]["annotations"]
            if value:
                annotations[key] = value
            else:
                annotations.pop(key.removesuffix("-"), None)
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
    moving = migrate.pause(cluster.kubectl, SOURCE)
    assert cluster.waiting == ["dev-proxy"], "one that was rolled back offline is left alone"
    cluster.becomes(SHIPPED)
    migrate.resume_when_applied(cluster.kubectl, SOURCE, moving)
    assert cluster.waiting == []
    assert migrate.pause(cluster.kubectl, SOURCE) == []


def test_nothing_waits_where_nothing_was_moved() -> None:
    cluster = Cluster(SHIPPED)
    migrate.resume_when_applied(cluster.kubectl, SOURCE, migrate.pause(cluster.kubectl, SOURCE))
    assert cluster.told == 0


def test_an_application_set_that_never_comes_is_said_and_the_wait_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrate, "SECONDS", 0.0)
    cluster = Cluster(moved())
    moving = migrate.pause(cluster.kubectl, SOURCE)
    with pytest.raises(FlowError, match=r"argocd/environments/dev\.yaml"):
        migrate.resume_when_applied(cluster.kubectl, SOURCE, moving)
    assert cluster.waiting == ["dev-proxy"], "nothing is rendered by halves"
    # Found: when the set came later, nobody knew any more that its applications wait.
    cluster.becomes(SHIPPED)
    migrate.resume_when_applied(cluster.kubectl, SOURCE, migrate.pause(cluster.kubectl, SOURCE))
    assert cluster.waiting == []


def test_a_push_that_fails_leaves_nothing_waiting_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(moved())
    waited: list[str] = []

    def refused(*_: object) -> str:
        waited.extend(cluster.waiting)
        raise FlowError("refused")

    monkeypatch.setattr(stages.source, "publish", refused)
    with pytest.raises(FlowError, match="refused"):
        stages.publish_source(cast(Site, cluster), SOURCE)
    assert waited == ["dev-proxy"]
    assert cluster.waiting == []
