"""What is bad is told, and what ran before serves on."""

from __future__ import annotations

import io
import json
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from flow import stages
from flow.site import Site
from tests.e2e.conftest import Release, digest, predict, running_digests, wait_until

MISSING = "sha256:" + "d" * 64


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


def failing_pods(site: Site, environment: str, release: str) -> str:
    """Why pods of a release wait or ended, in one string."""
    said = []
    for pod in site.kubectl.items(
        "pods", "-n", environment, "-l", f"app.kubernetes.io/instance={release}"
    ):
        status = pod["status"]
        for container in status.get("initContainerStatuses", []) + status.get(
            "containerStatuses", []
        ):
            for state in ("state", "lastState"):
                for reason in container.get(state, {}).values():
                    said.append(f"{container['name']} {reason.get('reason', '')}")
    return " ".join(said)


def test_a_request_leads_to_its_pods_images_and_commits(site: Site, release: Release) -> None:
    answer = predict("dev")
    assert answer.status_code == 200, answer.text
    identity = answer.headers["x-request-id"]

    def described() -> Any:
        text = release("describe", "request-id", identity, "--env=dev", "--json", accepted=(0, 8))
        found = json.loads(text)
        titles = {part["title"] for part in found.get("parts", ())}
        wanted = {"what Git wants of proxy in dev", "inference in dev"}
        return found if wanted <= titles else None

    found = wait_until(described, "the log of the proxy, and the server of its model")
    facts = [fact for part in found["parts"] for fact in part["facts"]]
    for name in ("proxy", "inference"):
        assert digest(site, "dev", name) in {fact["value"] for fact in facts}
    assert any(fact["what"] == "model" and "digits/" in fact["value"] for fact in facts)


def test_status_shows_what_the_model_servers_serve(release: Release) -> None:
    found = json.loads(release("status", "--env=dev", "--json"))["releases"]
    (line,) = [one for one in found if one["release"] == "inference"]
    wanted = {(one["name"], one["version"]) for one in line["wanted"]["models"]}
    assert wanted
    assert len(line["serving"]) == line["pods"]["ready"]
    for models in line["serving"].values():
        assert wanted <= {(one["name"], one["version"]) for one in models if one["ready"]}


@pytest.fixture
def put_back(site: Site, release: Release) -> Iterator[None]:
    """After the test, dev runs again what its values named before."""
    before = git(site.manifest_repo, "rev-parse", "main")
    yield
    release("rollback", "--env=dev", f"--to={before}", "--reason=e2e")
    release("unhold", "--env=dev")
    release("verify", "--env=dev", "--timeout=240")


@pytest.mark.usefixtures("put_back")
def test_a_digest_that_does_not_exist_leaves_the_old_pods_serving(
    site: Site, release: Release
) -> None:
    before = digest(site, "dev", "proxy")
    revision = git(site.manifest_repo, "rev-parse", "main")
    wanted = f"--image=proxy={site.registry}/proxy:nowhere@{MISSING}"
    arguments = ("image", "set", "--env=dev", f"--revision={revision}", wanted)
    refused = release(*arguments, accepted=tuple(range(1, 20)))
    assert MISSING in refused, "the digest is looked up before it is committed"
    assert digest(site, "dev", "proxy") == before

    release(*arguments, "--no-check-registry")
    wait_until(
        lambda: "ImagePullBackOff" in failing_pods(site, "dev", "proxy"),
        "the new pod cannot pull its image",
        timeout=120,
    )
    status = release("status", "--env=dev", accepted=tuple(range(1, 20)))
    assert "ImagePullBackOff" in status
    assert MISSING in status
    assert predict("dev").status_code == 200
    assert running_digests(site, "dev", "proxy") == {before}


@pytest.mark.usefixtures("put_back")
def test_a_model_with_the_wrong_sha256_never_gets_ready_and_says_why(
    site: Site, release: Release
) -> None:
    wrong = "e" * 64
    release(
        *("model", "set", "--env=dev", "--name=digits", "--version=1"),
        *("--uri=s3://models/digits/1", f"--sha256={wrong}"),
    )

    def refusal() -> str:
        for pod in site.kubectl.items(
            "pods", "-n", "dev", "-l", "app.kubernetes.io/instance=inference"
        ):
            name = pod["metadata"]["name"]
            log = site.kubectl.run(
                *("logs", name, "-n", "dev", "--all-containers", "--tail=50"), check=False
            )
            if wrong in log:
                return log
        return ""

    said = wait_until(refusal, "the init container names the wrong sha256", timeout=120)
    assert "sha256" in said
    assert predict("dev").status_code == 200, "the old pod serves on"
    ready = site.kubectl.get("deployment", "inference", "-n", "dev")["status"]["readyReplicas"]
    assert ready == site.kubectl.get("deployment", "inference", "-n", "dev")["spec"]["replicas"]


def test_a_zip_that_climbs_publishes_nothing_and_its_reason_is_logged(site: Site) -> None:
    user = f"e2e-{int(time.time())}"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("fine.txt", "fine")
        archive.writestr("../../escape.txt", "not fine")
    s3, bucket = site.s3(), stages.archives_bucket("dev")
    s3.put_object(Bucket=bucket, Key=f"{user}/result.zip", Body=content.getvalue())
    job = stages.run_extractor(site, "dev")

    def said() -> str:
        log = site.kubectl.run(
            *("logs", f"job/{job}", "-n", "dev", "-c", "unzip", "--tail=50"), check=False
        )
        # Another Job of the CronJob may have taken it first.
        others = site.kubectl.items("pods", "-n", "dev", "-l", "app.kubernetes.io/instance=unzip")
        for pod in others:
            log += site.kubectl.run(
                *("logs", pod["metadata"]["name"], "-n", "dev", "-c", "unzip"), check=False
            )
        return "\n".join(line for line in log.splitlines() if user in line and "refused" in line)

    reason = wait_until(said, "the refusal is logged", timeout=120)
    assert "../../escape.txt" in reason
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{user}/").get("Contents", [])
    assert [item["Key"] for item in listed] == [f"{user}/result.zip"]
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="escape.txt")


def test_a_misspelt_value_that_reached_git_changes_nothing_that_runs(
    site: Site, release: Release, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(site.manifest_repo), str(clone))
    path = clone / "values/dev/proxy.yaml"
    before, pods = path.read_text(), running_digests(site, "dev", "proxy")
    path.write_text(before + "replcas: 3\n")
    git(clone, "commit", "--quiet", "--all", "--message=Misspell a key")
    git(clone, "push", "--quiet", "origin", "main")
    try:

        def told() -> str:
            application = site.kubectl.get("application", "dev-proxy", "-n", "argocd")
            conditions = application.get("status", {}).get("conditions", [])
            return " ".join(str(condition.get("message")) for condition in conditions)

        wait_until(lambda: "replcas" in told(), "Argo CD names the key", timeout=60)
        assert predict("dev").status_code == 200
        assert running_digests(site, "dev", "proxy") == pods
    finally:
        git(clone, "pull", "--quiet", "--rebase", "origin", "main")
        path.write_text(before)
        git(clone, "commit", "--quiet", "--all", "--message=Spell it right")
        git(clone, "push", "--quiet", "origin", "main")
    release("verify", "--env=dev", "--timeout=240")
