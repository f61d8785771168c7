"""A commit goes to dev, stage and prod and back, seen through traffic that never fails."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow import command, image
from flow.site import Site
from tests.e2e.conftest import (
    Release,
    SteadyLoad,
    about,
    digest,
    running_digests,
    wait_until,
)

FILE = Path("apps/proxy/src/proxy/gateway/api/models.py")
REPORTED = re.compile(r'service="[^"]*",')
MARK = "changed-by-e2e"


def git(folder: Path | str, *arguments: str) -> str:
    done = subprocess.run(
        [
            *("git", "-C", str(folder), "-c", "user.name=e2e", "-c", "user.email=e2e@localhost"),
            *arguments,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def proxies_run(site: Site, environment: str, wanted: str) -> bool:
    return running_digests(site, environment, "proxy") == {wanted}


def reported(environment: str) -> str:
    """What the proxy of an environment says it is."""
    return str(wait_until(lambda: about(environment), f"an answer from {environment}")["service"])


@pytest.fixture(scope="module")
def baseline(site: Site, release: Release) -> str:
    """Every environment runs what dev runs; returns the digest of the proxy."""
    for name in ("dev", "stage", "prod"):
        release("unhold", f"--env={name}", accepted=(0, 1, 2, 3, 4, 5, 8))
    release("verify", "--env=dev", "--timeout=240")
    for source, target in (("dev", "stage"), ("stage", "prod")):
        release("promote", f"--from={source}", f"--to={target}")
        release("verify", f"--env={target}", "--timeout=240")
    wanted = digest(site, "dev", "proxy")
    for name in ("dev", "stage", "prod"):
        assert digest(site, name, "proxy") == wanted
        wait_until(lambda name=name: about(name), f"an answer from {name}")
    return wanted


@pytest.fixture(scope="module")
def load(baseline: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteadyLoad]:
    """The load runs over every test of this module and is judged by the last."""
    running = SteadyLoad(tmp_path_factory.mktemp("load"), "dev", "stage", "prod")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def changed(
    site: Site,
    release: Release,
    baseline: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[image.Image]:
    """A commit on main that changes what the proxy reports, built and pushed; reverted after.

    Found: left on main, it made the next run of these tests fail.
    """
    before = git(site.manifest_repo, "rev-parse", "main")
    clone = tmp_path_factory.mktemp("source") / "clone"
    git(clone.parent, "clone", "--quiet", str(site.manifest_repo), str(clone))
    text = (clone / FILE).read_text()
    assert REPORTED.search(text), "what the proxy reports has moved: tell this test where to"
    mark = f"{MARK}-{int(time.time())}"
    (clone / FILE).write_text(REPORTED.sub(f'service="{mark}",', text, count=1))
    git(clone, "commit", "--quiet", "--all", "--message=Report a mark")
    git(clone, "push", "--quiet", "origin", "main")
    yield image.build(
        clone,
        "proxy",
        registry=site.registry,
        base=site.base_image,
        build_volumes=site.build_volumes,
    )
    for name in ("dev", "stage"):
        release("rollback", f"--env={name}", f"--to={before}", "--reason=end of e2e")
        release("unhold", f"--env={name}")
    git(clone, "pull", "--quiet", "--rebase", "origin", "main")
    (clone / FILE).write_text(text)
    git(clone, "commit", "--quiet", "--all", "--message=Report no mark")
    git(clone, "push", "--quiet", "origin", "main")
    release("verify", "--env=dev", "--timeout=240")


@pytest.mark.usefixtures("load")
def test_a_commit_becomes_an_image_a_digest_new_pods_and_a_new_answer(
    site: Site, release: Release, changed: image.Image, baseline: str
) -> None:
    assert changed.digest != baseline
    begin = time.monotonic()
    release(
        *("image", "set", "--env=dev", f"--revision={changed.revision}"),
        f"--image=proxy={changed.reference}",
    )
    pushed = time.monotonic()
    assert digest(site, "dev", "proxy") == changed.digest
    assert digest(site, "dev", "worker") == changed.digest
    release("verify", "--env=dev", "--timeout=240")
    print(f"\nimage set {pushed - begin:.1f} s, verdict {time.monotonic() - pushed:.1f} s later")
    assert proxies_run(site, "dev", changed.digest)
    assert reported("dev").startswith(MARK)
    assert not reported("stage").startswith(MARK)


@pytest.mark.usefixtures("load")
@pytest.mark.parametrize(("source", "target"), [("dev", "stage"), ("stage", "prod")])
def test_promotion_copies_the_digest_and_nothing_is_built(
    site: Site, release: Release, changed: image.Image, source: str, target: str
) -> None:
    release("promote", f"--from={source}", f"--to={target}")
    release("verify", f"--env={target}", "--timeout=240")
    assert digest(site, target, "proxy") == changed.digest
    wait_until(lambda: proxies_run(site, target, changed.digest), f"{target} runs the digest")
    assert reported(target).startswith(MARK)


@pytest.mark.usefixtures("load")
def test_rollback_restores_what_ran_before_in_one_commit_and_holds_it(
    site: Site, release: Release, changed: image.Image, baseline: str
) -> None:
    before = git(site.manifest_repo, "rev-parse", "main")
    begin = time.monotonic()
    release("rollback", "--env=prod", "--reason=e2e")
    release("verify", "--env=prod", "--timeout=240")
    print(f"\nrollback and verdict {time.monotonic() - begin:.1f} s")
    assert git(site.manifest_repo, "rev-list", "--count", f"{before}..main") == "1"
    assert digest(site, "prod", "proxy") == baseline
    wait_until(lambda: proxies_run(site, "prod", baseline), "prod runs the old digest")
    assert not reported("prod").startswith(MARK)
    # The hold keeps the bad version out until somebody takes it away.
    refused = release(
        "promote", "--from=stage", "--to=prod", accepted=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    )
    assert "hold" in refused
    assert digest(site, "prod", "proxy") == baseline
    release("unhold", "--env=prod")


def test_not_one_request_failed_during_any_of_it(load: SteadyLoad) -> None:
    for met in load.stop():
        print(f"\n{met.host}: {met.requests} requests, {met.failed} failed {met.errors}")
        assert met.requests > 0
        assert met.failed == 0, f"{met.host}: {met.status_codes} {met.errors}"


def test_an_edit_of_values_reaches_the_pods(site: Site, tmp_path: Path) -> None:
    """`make apply`: an edit in a checkout is validated, committed, pushed and verified."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", site.manifest_repo, str(clone))
    git(clone, "config", "user.name", "e2e")
    git(clone, "config", "user.email", "e2e@localhost")
    edited = clone / "values/dev/unzip.yaml"
    before = edited.read_text()
    labels = ("cronjob", "unzip", "-n", "dev")
    for text, wanted in ((before + "podLabels: {edited: by-e2e}\n", "by-e2e"), (before, None)):
        edited.write_text(text)
        said = command.run("flow", "apply", "--root", str(clone), "--message", "Edit unzip")
        assert "committed 1 files" in said
        pod = site.kubectl.get(*labels)["spec"]["jobTemplate"]["spec"]["template"]
        assert pod["metadata"]["labels"].get("edited") == wanted, said
