"""The five stages for one environment, each a function that says what it did."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import typer
import yaml
from botocore.exceptions import ClientError

from flow import admission, command, image, migrate, source
from flow import apply as applying
from flow import render as rendering
from flow.errors import FlowError
from flow.site import ENVIRONMENTS, GATEWAY, Site
from release.render.helm import environments, releases

MODEL = "digits"
MODELS_BUCKET = "models"
# Exit codes of `release`; see docs/reference/release.md.
SUPERSEDED, HELD = 3, 4


def prepare(site: Site) -> None:
    """Make the buckets, and in each environment the Secrets of its services.

    One holds what they reach S3 with, the other what they know `release verify` by.
    """
    s3 = site.s3()
    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    of_environments = [
        each(name) for name in ENVIRONMENTS for each in (archives_bucket, jobs_bucket)
    ]
    for bucket in (MODELS_BUCKET, *of_environments):
        if bucket not in existing:
            s3.create_bucket(Bucket=bucket)
    documents: list[dict[str, Any]] = []
    for name in ENVIRONMENTS:
        # As argocd/projects has it: a pod that came before that would have no sidecar.
        labels = {
            "istio-injection": "enabled",
            "pod-security.kubernetes.io/enforce": "restricted",
        }
        metadata = {"name": name, "labels": labels}
        documents.append({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s3-credentials", "namespace": name},
                "stringData": site.credentials,
            }
        )
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "probe-credential", "namespace": name},
                "stringData": {"SLIPWAY_PROBE_KEY": probe_key(site, name)},
            }
        )
    site.kubectl.apply(yaml.safe_dump_all(documents))


def probe_key(site: Site, environment: str) -> str:
    """The key of `X-Slipway-Probe` in an environment: the one that its pods have, or a new one."""
    kept = site.kubectl.get("secret", "probe-credential", "-n", environment).get("data", {})
    if held := kept.get("SLIPWAY_PROBE_KEY"):
        return base64.b64decode(held).decode()
    return secrets.token_hex(32)


def archives_bucket(environment: str) -> str:
    """The bucket whose archives an environment extracts, as values/<env>/unzip.yaml says."""
    return "archives" if environment == "dev" else f"archives-{environment}"


def jobs_bucket(environment: str) -> str:
    """Where an environment's jobs keep what is too large for Redis, as its PROXY_JOBS says."""
    return "jobs" if environment == "dev" else f"jobs-{environment}"


def publish_source(site: Site, repo: Path) -> str:
    """Merge the source into the manifest repo and have Argo CD follow it; return the commit."""
    if command.run("git", "-C", str(repo), "status", "--porcelain").strip():
        typer.echo("note: changes that are not committed are not part of what is deployed")
    moving = migrate.pause(site.kubectl, repo)
    try:
        commit = source.publish(repo, site.manifest_repo, site.repo_url)
    except BaseException:
        migrate.resume(site.kubectl, moving)  # nothing was moved
        raise
    with _checkout(site) as clone:
        for name in ("projects/root", "root"):
            site.kubectl.apply((clone / "argocd" / f"{name}.yaml").read_text())
        admission.apply(site.kubectl, clone, site.registry)
    migrate.resume_when_applied(site.kubectl, repo, moving)
    return commit


def publish_edits(site: Site, repo: Path) -> list[str]:
    """Merge a checkout's HEAD into the manifest repo; return the deployed environments it reaches.

    What Argo CD itself is given (root and its project) is applied as well.
    """
    with _checkout(site) as clone:
        before = command.run("git", "-C", str(clone), "rev-parse", "HEAD").strip()
    publish_source(site, repo)
    with _checkout(site, depth=0) as clone:
        paths = applying.between(clone, before, "HEAD")
        wanted = applying.touched(paths, environments(clone))
        return [name for name in wanted if applying.deployed(clone, name)]


def images(site: Site) -> list[image.Image]:
    """Stage 1: build what changed on main, push it by digest.

    Main and not this clone is built: it may hold what others merged, and what runs must never
    be replaced by something that lacks it.
    """
    found = []
    with _checkout(site) as clone:
        for app in services(clone):
            begin = time.monotonic()
            built = image.build(
                clone,
                app,
                registry=site.registry,
                base=site.base_image,
                build_volumes=site.build_volumes,
            )
            typer.echo(f"  {app} {built.digest[:19]}… ({time.monotonic() - begin:.1f} s)")
            found.append(built)
    return found


def services(clone: Path) -> list[str]:
    """The services that an environment deploys and that are built here, own ones too, sorted."""
    deployed = {
        release.service
        for environment in environments(clone)
        for release in releases(clone, environment)
        if release.chart == "service"
    }
    return sorted(name for name in deployed if (clone / "apps" / name / "pyproject.toml").is_file())


def model(site: Site) -> dict[str, str]:
    """Train the digits model unless it was published before; return name, version, uri, sha256."""
    s3 = site.s3()
    try:
        key = f"{MODEL}/1/model.json"
        document = s3.get_object(Bucket=MODELS_BUCKET, Key=key)["Body"].read()
        return {
            "name": MODEL,
            "version": "1",
            "uri": f"s3://{MODELS_BUCKET}/{MODEL}/1",
            "sha256": hashlib.sha256(document).hexdigest(),
        }
    except ClientError as error:
        if error.response["Error"].get("Code") not in ("NoSuchKey", "404"):
            raise
    with tempfile.TemporaryDirectory(prefix="slipway-model-") as folder:
        command.run("trainer", "train", "--to", folder, "--version", "1")
        published = command.run(
            *("trainer", "publish", "--from", folder, "--json"),
            environment=site.aws_environment(),
        )
    said = json.loads(published)
    return {key: str(said[key]) for key in ("name", "version", "uri", "sha256")}


def values(
    site: Site, environment: str, built: list[image.Image], published: dict[str, str]
) -> None:
    """Stage 2: `release` writes the digests into the environment's values."""
    with _checkout(site) as clone:
        folder = clone / "values" / environment
        new = [one for one in built if _image(folder, one.app)["digest"] != one.digest]
        # Another version is somebody's decision, by `release model set`: only nothing is filled,
        # and an entry of this very version from before `release` pinned model.json is renewed.
        models = _models(folder, "inference")
        wanted = {key: value for key, value in published.items() if key != "name"}
        entry = models.get(published["name"], {})
        renewed = entry != wanted and entry | {"sha256": wanted["sha256"]} == wanted
        to_be_set = renewed or not models
    # A newer build or a hold is somebody's decision: it is reported, and what runs stays.
    accepted = (0, SUPERSEDED, HELD)
    if new:
        said = release(
            site,
            *("image", "set", f"--env={environment}", f"--revision={new[0].revision}"),
            *(f"--image={one.app}={one.reference}" for one in new),
            accepted=accepted,
        )
        typer.echo(said.strip())
    if to_be_set:
        arguments = (f"--{key}={value}" for key, value in published.items())
        said = release(site, "model", "set", f"--env={environment}", *arguments, accepted=accepted)
        typer.echo(said.strip())


def release(site: Site, *arguments: str, accepted: tuple[int, ...] = (0,)) -> str:
    """Run the `release` command on the manifest repo, shown as one would type it.

    Returns what it said, on standard output and standard error.
    """
    environment = {"MANIFEST_REPO": site.manifest_repo}
    if site.kubectl.kubeconfig:
        environment["KUBECONFIG"] = str(site.kubectl.kubeconfig)
    return command.run(
        "release", *arguments, environment=environment, shown=True, accepted=accepted
    )


def render(site: Site, environment: str) -> int:
    """Stage 3: charts and values become manifests; return how many objects there are."""
    with _checkout(site) as clone:
        return sum(len(objects) for objects in rendering.render(clone, environment).values())


def sync(site: Site, environment: str, *, timeout: float = 300.0) -> None:
    """Stage 4: wait for the verdict on what Argo CD did with main."""
    release(site, "verify", f"--env={environment}", f"--timeout={timeout:.0f}")


def route(environment: str, *, timeout: float = 60.0) -> dict[str, Any]:
    """Stage 5: wait until the gateway leads to the proxy; return what it says about itself."""
    host = f"{environment}.slipway.localhost"
    deadline = time.monotonic() + timeout
    said = "no answer"
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{GATEWAY}/v1/about", headers={"Host": host}, timeout=5)
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            said = f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            said = str(error)
        time.sleep(0.2)
    raise FlowError(f"http://{host} did not answer in {timeout:.0f} s; last it said: {said}")


def run_extractor(site: Site, environment: str) -> str:
    """Start a Job from the CronJob, as its schedule would, and return its name."""
    name = f"unzip-demo-{int(time.time())}"
    site.kubectl.run("create", "job", name, "--from=cronjob/unzip", "-n", environment)
    return name


def _image(folder: Path, release: str) -> dict[str, str]:
    """What `release` wrote for an image."""
    document = yaml.safe_load((folder / f"{release}.image.yaml").read_text())
    return {name: str(value) for name, value in document["image"].items()}


def _models(folder: Path, release: str) -> dict[str, dict[str, str]]:
    """What `release` wrote for a release's models, by name."""
    document = yaml.safe_load((folder / f"{release}.models.yaml").read_text())
    models: dict[str, dict[str, str]] = document["models"]
    return models


@contextmanager
def _checkout(site: Site, *, depth: int = 1) -> Iterator[Path]:
    """What main of the manifest repo holds now; with depth 0 its complete history."""
    with tempfile.TemporaryDirectory(prefix="slipway-main-") as folder:
        clone = Path(folder) / "clone"
        command.run(
            *("git", "clone", "--quiet", "--no-local", "--branch=main"),
            *([f"--depth={depth}"] if depth else []),
            *(site.manifest_repo, str(clone)),
        )
        yield clone
