"""`release validate`: what is wrong is refused with file, key, line and fix."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from release import programs, validate
from release.cli import app
from release.render import helm
from release.render.helm import Manifest, Release
from release.validate.environment import Environment
from release.validate.settings import variables
from release.values import holds
from tests.programs import require
from tests.release.conftest import IDENTITY

ROOT = Path(__file__).resolve().parents[3]
Documents = dict[Release, list[Manifest]]


def copied(target: Path) -> Path:
    for folder in ("charts", "values", "argocd"):
        shutil.copytree(ROOT / folder, target / folder)
    return target


def append(path: Path, text: str) -> int:
    """Add lines to a file; the number of the first new one."""
    before = path.read_text()
    path.write_text(before + text)
    return before.count("\n") + 1


@pytest.fixture(scope="module", autouse=True)
def helm_and_kubeconform() -> None:
    require("helm")
    require("kubeconform")


@pytest.fixture(scope="module")
def shipped() -> validate.Report:
    return validate.validate(ROOT)


def test_what_is_shipped_is_valid(shipped: validate.Report) -> None:
    assert [str(finding) for finding in shipped.findings] == []
    assert shipped.rendered >= 15
    assert shipped.manifests > shipped.rendered


def test_every_mistake_is_found_in_one_run_at_its_place(tmp_path: Path) -> None:
    """One tree with many mistakes: none hides another."""
    root = copied(tmp_path)
    values = root / "values"
    misspelt = append(values / "dev/proxy.yaml", "resorces:\n  limits: {memory: 1Gi}\n")
    wrong_type = append(values / "stage/proxy.yaml", "stop: {graceSeconds: soon}\n")
    (values / "dev/unzpi.yaml").write_text("env: {}\n")
    (values / "dev/worker.imgae.yaml").write_text("image: {}\n")
    shutil.copytree(values / "stage", values / "stagging")
    half = values / "prod/proxy.image.yaml"
    half.write_text(half.read_text().replace('tag: ""', 'tag: "1"'))
    argocd = root / "argocd/environments/prod.yaml"
    argocd.write_text(
        argocd.read_text().replace(
            "- {release: unzip, chart: service}",
            "- {release: unzip, chart: service}\n          - {release: extra, chart: service}",
        )
    )
    broken = values / "prod/worker.yaml"
    broken.write_text(broken.read_text() + "args: [serve\n")
    project = root / "argocd/projects/prod.yaml"
    project.write_text(project.read_text().replace("namespaceResourceWhitelist", "nameWhitelist"))
    (values / "promotion.yaml").write_text("stage: {soka: 3m}\nprdo: {}\n")
    (values / "stage/worker.image.yaml").write_text("image: [\n")
    (values / "stage/inference.models.yaml").write_text("models: none\n")

    answer = CliRunner().invoke(app, ["validate", str(root), "--json"])
    assert answer.exit_code == 1
    found = {
        (entry["file"], entry["line"], entry["key"]): (
            f"{entry['message']} {entry['releases']} Fix: {entry['fix']}"
        )
        for entry in json.loads(answer.stdout)["findings"]
    }

    def said(file: str, line: int, key: str) -> str:
        return found.get((file, line, key), f"nothing; found: {sorted(found)}")

    assert "'resources'" in said("values/dev/proxy.yaml", misspelt, "resorces")
    assert "stage/proxy" in said("values/stage/proxy.yaml", wrong_type, "stop.graceSeconds")
    assert "did you mean unzip?" in said("values/dev/unzpi.yaml", 0, "unzpi")
    assert "worker.image.yaml" in said("values/dev/worker.imgae.yaml", 0, "")
    assert "rename it to stage" in said("values/stagging", 0, "")
    assert "image.digest" in said("values/prod/proxy.image.yaml", 0, "")
    assert "write values/services/extra/service.yaml" in " ".join(
        text
        for (file, _, key), text in found.items()
        if (file, key) == ("argocd/environments/prod.yaml", "extra")
    )
    assert "yaml" in said("values/prod/worker.yaml", 0, "").lower()
    assert any(
        "nameWhitelist" in text for (file, *_), text in found.items() if "project" in file
    ), found
    assert "Extra inputs" in said("values/promotion.yaml", 1, "stage.soka")
    assert "did you mean 'prod'?" in said("values/promotion.yaml", 2, "prdo")
    assert "YAML" in said("values/stage/worker.image.yaml", 2, "")
    assert "stage/inference" in said("values/stage/inference.models.yaml", 0, "models")


def test_a_folder_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    """Found: without values there was a traceback, without argocd nothing was wrong."""
    for folder in ("charts", "values", "argocd"):
        answer = CliRunner().invoke(app, ["validate", str(tmp_path), "--json"])
        assert answer.exit_code == 8
        assert f"no folder {folder}" in json.loads(answer.stdout)["message"]
        (tmp_path / folder).mkdir()


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **IDENTITY}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_merge_must_not_change_what_is_held(tmp_path: Path) -> None:
    """Found: a hold did not stop the open pull request of a promotion."""
    root = copied(tmp_path)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "Begin")
    git(root, "checkout", "-q", "-b", "promote")
    for release in ("proxy", "unzip"):
        append(root / f"values/stage/{release}.yaml", "# changed\n")
    git(root, "commit", "-q", "-a", "-m", "Promote")
    checked = ["validate", str(root), "--env", "stage", "--base", "main", "--json"]
    assert CliRunner().invoke(app, checked).exit_code == 0
    git(root, "checkout", "-q", "main")
    since = datetime(2026, 11, 20, tzinfo=UTC)
    held = holds.write([holds.Hold(("unzip",), "audit", "ada", since)])
    (root / "values/stage/hold.yaml").write_bytes(held or b"")
    append(root / "values/stage/worker.yaml", "# on main, not by the pull request\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "Hold")
    git(root, "checkout", "-q", "promote")
    answer = CliRunner().invoke(app, checked)
    assert answer.exit_code == 1
    [finding] = json.loads(answer.stdout)["findings"]
    assert finding["file"] == "values/stage/unzip.yaml"
    assert "unzip held by ada: audit" in finding["message"]
    assert CliRunner().invoke(app, [*checked[:-2], "nowhere"]).exit_code == 8


def test_another_repository_can_be_looked_at(tmp_path: Path) -> None:
    """Found: every other command took a clone or a URL, these two only the folder at hand."""
    root = copied(tmp_path / "work")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "Begin")
    wrong = append(root / "values/dev/proxy.yaml", "resorces: {}\n")
    git(root, "commit", "-q", "-a", "-m", "Misspell")
    url = f"file://{root}"
    answer = CliRunner().invoke(app, ["validate", "--manifest-repo", url, "--json"])
    assert answer.exit_code == 1
    findings = json.loads(answer.stdout)["findings"]
    assert ("values/dev/proxy.yaml", wrong) in {(one["file"], one["line"]) for one in findings}
    answer = CliRunner().invoke(app, ["diff", "HEAD^", "--manifest-repo", url, "--json"])
    assert answer.exit_code == 1
    told = json.loads(answer.stdout)  # one object
    assert told["applications"][0]["name"] == "dev/proxy"
    assert "cannot be rendered" in told["message"]


def test_an_environment_nobody_deploys_is_refused_by_name() -> None:
    answer = CliRunner().invoke(app, ["validate", str(ROOT), "--env", "stge", "--json"])
    assert answer.exit_code == 8
    assert "'stage'" in json.loads(answer.stdout)["fix"]
    # Found: it did not say where it had looked, and people stood in another clone.
    assert f"argocd/environments/stge.yaml in {ROOT}" in json.loads(answer.stdout)["message"]


@pytest.fixture(scope="module")
def dev() -> Documents:
    rows = helm.releases(ROOT, "dev")
    return {r.release: r.manifests for r in helm.render_all(ROOT, rows, placeholders=True)}


def of(documents: Documents, kind: str, name: str) -> Manifest:
    return next(
        document
        for one in documents.values()
        for document in one
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    )


def container(documents: Documents) -> dict[str, Any]:
    found: dict[str, Any] = of(documents, "Deployment", "proxy")["spec"]["template"]["spec"][
        "containers"
    ][0]
    return found


def destination(documents: Documents) -> dict[str, Any]:
    found: dict[str, Any] = of(documents, "VirtualService", "public")["spec"]["http"][0]["route"][
        0
    ]["destination"]
    return found


def rename_subset(documents: Documents) -> None:
    of(documents, "DestinationRule", "proxy")["spec"]["subsets"] = [{"name": "stable"}]
    destination(documents)["subset"] = "stabel"


MUTATIONS: dict[str, tuple[Callable[[Documents], object], str]] = {
    "a route to no service": (
        lambda d: destination(d).update(host="prxoy"),
        "names the host 'prxoy', which is no Service of the environment",
    ),
    "a route to no subset": (rename_subset, "sends to the subset 'stabel' of proxy"),
    "a route to no port": (
        lambda d: destination(d).update(port={"number": 81}),
        "sends to port 81 of proxy",
    ),
    "a mirror to no service": (
        lambda d: of(d, "VirtualService", "public")["spec"]["http"][0].update(
            mirrors=[{"destination": {"host": "shadow"}}]
        ),
        "names the host 'shadow'",
    ),
    "a gateway that is not there": (
        lambda d: of(d, "VirtualService", "public")["spec"].update(gateways=["pubic"]),
        "names no Gateway of the environment: pubic",
    ),
    "a rule for no service": (
        lambda d: of(d, "DestinationRule", "inference")["spec"].update(host="inferenec"),
        "names the host 'inferenec'",
    ),
    "a probe of another port": (
        lambda d: container(d)["readinessProbe"]["httpGet"].update(port=9999),
        "probes port 9999",
    ),
    "an image without a digest": (
        lambda d: container(d).update(image="registry.test/proxy:latest"),
        "which has no digest",
    ),
    "a service that selects nothing": (
        lambda d: of(d, "Service", "proxy")["spec"].update(selector={"app": "x"}),
        "selects no pods",
    ),
    "a service to another port": (
        lambda d: of(d, "Service", "proxy")["spec"]["ports"][0].update(targetPort=81),
        "leads to port 81",
    ),
    "a kind that the project forbids": (
        lambda d: of(d, "ConfigMap", "proxy").update(kind="Secret"),
        "of a kind that the project does not allow",
    ),
}


def route(parent: dict[str, Any], **backend: Any) -> Manifest:
    """An HTTPRoute that leads to the proxy, by a mirror too."""
    there = {"name": "proxy", "port": 8080, **backend}
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": there}}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "public", "namespace": "dev"},
        "spec": {
            "parentRefs": [parent],
            "rules": [{"backendRefs": [{**there, "weight": 100}]}, {"filters": [mirror]}],
        },
    }


SERVICE = {"group": "", "kind": "Service", "name": "proxy", "port": 8080}
ROUTES: dict[str, tuple[Manifest, list[str]]] = {
    "right": (route(SERVICE), []),
    "in another namespace": (route({"name": "shared", "namespace": "x"}, namespace="x"), []),
    "to no service": (
        route(SERVICE, name="prxoy"),
        ["names the host 'prxoy', which is no Service of the environment"],
    ),
    "to no port": (route(SERVICE, port=81), ["sends to port 81 of proxy"]),
    "of no service": (route({**SERVICE, "name": "prxoy"}), ["names the host 'prxoy'"]),
    "of no gateway": (route({"name": "pubic"}), ["names no Gateway of the environment: dev/pubic"]),
}


@pytest.mark.parametrize("name", ROUTES)
def test_an_httproute_is_checked_as_well(dev: Documents, name: str) -> None:
    """Found: of HTTPRoutes nothing was checked."""
    document, words = ROUTES[name]
    documents = copy.deepcopy(dev)
    next(d for r, d in documents.items() if r.name == "routing").append(document)
    found = checked(documents)
    assert len(set(found)) == len(words), found
    for word in words:
        assert any(word in finding for finding in found), found


def test_the_projects_own_programs_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: whatever Helm was on PATH rendered, not that of Argo CD."""
    for folder in ("cache/bin", "path"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "helm").touch(0o755)
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert programs.find("helm") == str(tmp_path / "cache/bin/helm")
    (tmp_path / "cache/bin/helm").unlink()
    assert programs.find("helm") == str(tmp_path / "path/helm")


def checked(
    documents: Documents, settings: dict[str, dict[str, variables.Setting]] | None = None
) -> list[str]:
    return [str(f) for f in validate.cross_checks(Environment(ROOT, documents), settings or {})]


def test_the_shipped_environment_passes_the_cross_checks(dev: Documents) -> None:
    assert checked(dev) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_name_that_points_to_nothing_is_found(dev: Documents, name: str) -> None:
    mutate, words = MUTATIONS[name]
    documents = copy.deepcopy(dev)
    mutate(documents)
    found = checked(documents)
    assert any(words in finding for finding in found), found


def test_environment_keys_are_settings_of_the_service(dev: Documents) -> None:
    known, _ = variables.read(ROOT)
    assert checked(dev, known) == []
    renamed = {name: one for name, one in known["proxy"].items() if name != "PROXY_BACKENDS"}
    renamed["PROXY_BACKEND"] = known["proxy"]["PROXY_BACKENDS"]
    found = checked(dev, {"proxy": renamed})
    assert any(
        "values/services/proxy/service.yaml:" in f
        and "PROXY_BACKENDS" in f
        and "PROXY_BACKEND?" in f
        for f in found
    ), found
