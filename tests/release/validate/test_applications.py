"""argocd/: an environment that deploys onto another one, or not at all, is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from release import validate
from release.render import helm
from release.validate.files import applications
from release.validate.findings import Finding, merged
from tests.programs import require
from tests.release.broken_values import added, copied, replaced

DEV = "argocd/environments/dev.yaml"
# What stands there, what is written instead, the finding's key, words of message and fix.
FAULTS = [
    ("namespace: dev}", "namespace: prod}", "destination.namespace",
     "a deployment of dev replaces what runs in prod", "write dev"),
    ("targetRevision: main", "targetRevision: mian", "source.targetRevision",
     "the rest of argocd/ follows 'main'", "write main"),
    ("project: slipway", "project: slipwya", "project",
     "no file of argocd/projects has such an AppProject", "did you mean slipway-dev?"),
    ("https://github.com/your-organisation/slipway.git", "https://github.com/yours/slipway.git",
     "source.repoURL", "which the project slipway-dev does not allow", "add it there"),
    ('releaseName: "{{ .release }}"', 'releaseName: "{{ .relase }}"', "source.helm.releaseName",
     "names the field .relase", "did you mean .release?"),
    ("path: charts/{{ .chart }}", "path: charts/{{- .chrat -}}", "source.path",
     "names the field .chrat", "did you mean .chart?"),
    ("values/dev/{{ .release }}.image", "values/prod/{{ .release }}.image",
     "source.helm.valueFiles.6", "the values of prod", "../../values/dev/"),
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copied(tmp_path)


def said(root: Path, environment: str = "dev") -> list[Finding]:
    return list(applications.findings(root, environment, helm.environments(root)))


def test_the_shipped_applications_have_no_findings(root: Path) -> None:
    assert [said(root, one) for one in ("dev", "stage", "prod")] == [[], [], []]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault[1] for fault in FAULTS])
def test_one_fault_is_one_finding(root: Path, fault: tuple[str, str, str, str, str]) -> None:
    """Found: each of them had no finding, the first one deploys dev onto prod."""
    old, new, key, message, fix = fault
    replaced(root, DEV, old, new)
    [one] = said(root)
    assert (one.file, one.key) == (DEV, f"spec.template.spec.{key}")
    assert one.line
    assert message in one.message
    assert fix in one.fix
    assert said(root, "stage") == []


def test_a_namespace_of_ones_own_is_allowed(root: Path) -> None:
    for name in ("dev", "prod"):
        replaced(
            root,
            f"argocd/environments/{name}.yaml",
            f"namespace: {name}}}",
            f"namespace: team-{name}}}",
        )
    assert said(root) == []
    replaced(root, DEV, "namespace: team-dev", "namespace: team-prod")
    assert ["the namespace of prod" in one.message for one in said(root)] == [True]


def test_two_environments_on_two_clusters_may_have_one_namespace(root: Path) -> None:
    for name in ("dev", "prod"):
        replaced(
            root, f"argocd/environments/{name}.yaml",
            f"server: https://kubernetes.default.svc, namespace: {name}",
            f"server: https://{name}.example.com, namespace: team",
        )  # fmt: skip
    assert said(root) == []


def test_two_application_sets_never_make_one_application(root: Path) -> None:
    replaced(root, DEV, "name: dev-{{ .release }}", "name: prod-{{ .release }}")
    assert ["Argo CD has one application" in one.message for one in said(root)] == [True]
    assert said(root, "prod") == []


@pytest.mark.parametrize(
    "allowed", ["'*'", "https://github.com/Your-Organisation/slipway", "https://github.com/*/*"]
)
def test_repositories_are_compared_as_argo_cd_does(root: Path, allowed: str) -> None:
    url = "https://github.com/your-organisation/slipway.git"
    replaced(root, "argocd/projects/dev.yaml", f"sourceRepos: [{url}]", f"sourceRepos: [{allowed}]")
    assert said(root) == []


def hosts_of(root: Path, *chosen: str) -> list[Finding]:
    known = helm.environments(root)
    rows = {name: helm.releases(root, name) for name in known}
    return list(applications.hosts(root, rows, chosen or known))


def test_a_host_of_another_environment_is_found_where_it_is_wrong(root: Path) -> None:
    """Found: dev answered at prod's host with no finding."""
    replaced(root, "values/dev/routing.yaml", "dev.slipway", "prod.slipway")
    for chosen in ((), ("dev",), ("prod",)):
        [one] = hosts_of(root, *chosen)
        assert (one.file, one.line, one.key) == ("values/dev/routing.yaml", 1, "hosts")
        assert "names 'prod.slipway.localhost', as dev and prod do" in one.message
    assert hosts_of(root, "stage") == []


def foreign_hosts_of(root: Path, *chosen: str) -> list[Finding]:
    known = helm.environments(root)
    rows = {name: helm.releases(root, name) for name in known}
    return list(applications.foreign_hosts(root, rows, chosen or known))


@pytest.mark.parametrize(
    "host",
    ["prod.slipway.localhost", "api.example.com", "'*'", "DEV.slipway.localhost",
     "evildev.slipway.localhost", "dev.slipway.localhost."],
)  # fmt: skip
def test_a_host_that_the_cluster_refuses_is_found(root: Path, host: str) -> None:
    assert foreign_hosts_of(root) == []
    replaced(root, "values/dev/routing.yaml", "dev.slipway.localhost", host)
    [one] = foreign_hosts_of(root, "dev")
    assert (one.file, one.line, one.key) == ("values/dev/routing.yaml", 1, "hosts")
    assert f"names {host.strip(chr(39))!r}, and the namespace of dev has" in one.message
    assert "argocd/projects/dev.yaml" in one.fix
    assert foreign_hosts_of(root, "stage") == []


def test_hosts_below_ones_own_and_namespaces_of_others_are_let_be(root: Path) -> None:
    replaced(
        root, "values/dev/routing.yaml", "dev.slipway", "'*.dev.slipway.localhost', dev.slipway"
    )
    assert foreign_hosts_of(root) == []
    replaced(root, "values/dev/routing.yaml", "dev.slipway.localhost]", "api.example.com]")
    replaced(root, "argocd/projects/dev.yaml", "slipway/environment: dev", "example.org/team: a")
    assert foreign_hosts_of(root) == []


def test_a_namespace_that_may_have_anothers_hosts_is_found(root: Path) -> None:
    """A host above all environments' own allows dev to answer for prod."""
    replaced(
        root, "argocd/projects/dev.yaml", "slipway/hosts: dev.slipway", "slipway/hosts: slipway"
    )
    found = foreign_hosts_of(root, "dev")
    assert [(one.file, one.key) for one in found] == [
        ("argocd/projects/dev.yaml", "metadata.annotations.slipway/hosts")
    ] * 2
    assert all(one.line == 15 and one.fix for one in found)
    assert "may take the requests of prod" in found[0].message


def test_a_host_in_base_is_one_of_every_environment(root: Path) -> None:
    for name in ("dev", "stage", "prod"):
        (root / f"values/{name}/routing.yaml").unlink()
    added(root, "values/services/inference/routes.yaml", "hosts: [api.example.com]\n")
    told = merged(hosts_of(root))
    assert [one.releases for one in told] == [("dev/routing", "prod/routing", "stage/routing")]


def test_the_command_says_so_for_one_environment_too(root: Path) -> None:
    require("helm")
    require("kubeconform")
    replaced(root, DEV, "namespace: dev}", "namespace: prod}")
    replaced(root, "values/dev/routing.yaml", "dev.slipway", "prod.slipway")
    replaced(root, "argocd/root.yaml", "project: slipway-root", "project: slipway-rot")
    replaced(root, "argocd/projects/dev.yaml", "hosts: dev.slipway", "hosts: slipway")
    told = {(one.file, one.key) for one in validate.validate(root, ["dev"]).findings}
    assert {
        (DEV, "spec.template.spec.destination.namespace"),
        ("values/dev/routing.yaml", "hosts"),
        ("argocd/projects/dev.yaml", "metadata.annotations.slipway/hosts"),
        ("argocd/root.yaml", "spec.project"),
    } <= told
