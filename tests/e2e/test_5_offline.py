"""Rolled back without Git, under load, while Argo CD would rather have the newest commit."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow.site import Site
from tests.e2e.conftest import Release, SteadyLoad
from tests.e2e.test_1_release import git

VALUES = "values/stage/proxy.yaml"
# Long enough for several of Argo CD's own looks; it is asked for more meanwhile.
PATIENCE = 15.0


@pytest.fixture
def stage(site: Site, release: Release, tmp_path: Path) -> Iterator[Path]:
    """A clone of the manifest repo with stage verified; what the test changes is put back."""
    release("unhold", "--env=stage")
    release("verify", "--env=stage", "--timeout=240")
    clone = tmp_path / "clone"
    git(".", "clone", "--quiet", str(site.manifest_repo), str(clone))
    before = git(clone, "rev-parse", "HEAD")
    try:
        yield clone
    finally:
        release("reconcile", "--env=stage", "--discard", "--no-verify")
        release("unhold", "--env=stage")
        git(clone, "fetch", "--quiet", "origin", "main")
        git(clone, "reset", "--quiet", "--hard", "origin/main")
        git(clone, "checkout", "--quiet", before, "--", VALUES)
        if git(clone, "status", "--porcelain"):
            git(clone, "commit", "--quiet", "--message=Take the setting back")
            git(clone, "push", "--quiet", "origin", "HEAD:main")
        release("verify", "--env=stage", "--timeout=240")


def level(site: Site) -> str:
    """The log level that stage's proxy is configured with."""
    data = site.kubectl.get("configmap", "proxy", "-n", "stage")["data"]
    return str(data.get("PROXY_LOG_LEVEL", ""))


def annotations(site: Site) -> dict[str, str]:
    """Those of stage-proxy's Application."""
    application = site.kubectl.get("application", "stage-proxy", "-n", "argocd")
    found: dict[str, str] = application["metadata"].get("annotations", {})
    return found


def test_argo_cd_does_not_undo_it_and_git_has_it_afterwards(
    site: Site, release: Release, stage: Path, tmp_path: Path
) -> None:
    values = stage / VALUES
    text = values.read_text()
    assert "env:\n" in text
    values.write_text(text.replace("env:\n", "env:\n  PROXY_LOG_LEVEL: debug\n"))
    git(stage, "commit", "--quiet", "--all", "--message=Set a level that somebody will regret")
    git(stage, "push", "--quiet", "origin", "HEAD:main")
    release("verify", "--env=stage", "--timeout=240", "--no-record")
    assert level(site) == "debug"

    load = SteadyLoad(tmp_path, "stage")
    try:
        began = time.monotonic()
        release(
            *("rollback", "--env=stage", "--offline", "--verify", "--reason=too much in the log"),
            "--manifest-repo=git://127.0.0.1:9/nowhere.git",
        )
        seconds = time.monotonic() - began
        assert level(site) == ""
        # Git is there for Argo CD, with the bad commit: neither it nor the ApplicationSet may act.
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            for kind, name in (("applications", "stage-proxy"), ("applicationsets", "stage")):
                site.kubectl.run(
                    *("annotate", kind, name, "-n", "argocd", "--overwrite"),
                    "argocd.argoproj.io/refresh=hard"
                    if kind == "applications"
                    else "argocd.argoproj.io/application-set-refresh=true",
                )
            assert level(site) == ""
            assert annotations(site)["argocd.argoproj.io/skip-reconcile"] == "true"
            time.sleep(1)
        release("verify", "--env=stage", "--timeout=5", accepted=(4,))
        release("reconcile", "--env=stage", "--timeout=240")
    finally:
        (seen,) = load.stop()
    print(f"\noffline: ready after {seconds:.1f} s; {seen.requests} requests, {seen.failed} failed")
    assert seen.failed == 0, seen.errors
    assert level(site) == ""
    assert "argocd.argoproj.io/skip-reconcile" not in annotations(site)
    shown = subprocess.run(
        ["git", "-C", str(site.manifest_repo), "show", f"main:{VALUES}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "PROXY_LOG_LEVEL" not in shown.stdout
    status = json.loads(release("status", "--env=stage", "--json"))
    assert {line["state"] for line in status["releases"]} == {"deployed"}
