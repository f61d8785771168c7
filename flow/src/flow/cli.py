"""The `flow` command: image, values, render, sync, route, on one machine."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import ClusterError
from flow import apply as applying
from flow import archive, dev, digits, image, stages
from flow import site as sites
from flow.errors import FlowError

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

REPO = Path(__file__).parents[3]
DEMO_USER = "user-0001"
EnvOption = Annotated[str, typer.Option("--env", help="Environment: dev, stage or prod.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class _Stages:
    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._last = self._begin

    def head(self, text: str) -> None:
        typer.echo(f"[{time.monotonic() - self._begin:6.1f} s] {text}")


@app.command()
def up() -> None:
    """Run the five stages for dev on the cluster that is up, then the main job."""
    here, report = _site(), _Stages()
    stages.prepare(here)
    commit = stages.publish_source(here, REPO)
    report.head(f"the manifest repo {here.manifest_repo} is at {commit[:12]}")
    report.head("stage 1, image: a commit becomes images")
    built = stages.images(here)
    report.head("stage 2, values: the digests are written into values/dev")
    stages.values(here, "dev", built, stages.model(here))
    report.head(f"stage 3, render: {stages.render(here, 'dev')} objects")
    report.head("stage 4, sync: Argo CD applies them")
    stages.sync(here, "dev")
    about = stages.route("dev")
    report.head(f"stage 5, route: http://dev.slipway.localhost:8080 answers from {about['pod']}")
    _digits("dev")
    report.head("first predictions are there")
    _archive(here, "dev")
    report.head("dev is up: http://dev.slipway.localhost:8080")


@app.command("apply")
def apply_edits(
    message: Annotated[str, typer.Option("--message", "-m", help="Subject of the commit.")] = "",
    root: Annotated[
        Path | None, typer.Option("--root", help="Checkout to take the edit from; else this one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate only.")] = False,
) -> None:
    """Bring an edit of values, charts or argocd to the cluster: validate, commit, push, verify.

    Images are not built: a change of a service's code reaches the cluster by `make up`.
    """
    checkout = root or REPO
    typer.echo(applying.validated(checkout))
    if dry_run:
        return
    here = _site()
    changed = applying.commit_edits(checkout, message)
    typer.echo(f"committed {len(changed)} files" if changed else "nothing new to commit")
    for environment in stages.publish_edits(here, checkout):
        stages.sync(here, environment)


@app.command()
def demo(env: EnvOption = "dev") -> None:
    """Run the main job again: ten digits and a zip."""
    here = _site()
    _digits(env)
    _archive(here, env)


@app.command("image")
def build_image(
    name: Annotated[str, typer.Argument(help="The service, a folder of apps/.")],
    registry: Annotated[
        str, typer.Option(envvar="IMAGE_REGISTRY", help="Where to push: host/path.")
    ] = "",
    base: Annotated[
        str, typer.Option(envvar="PYTHON_IMAGE", help="Replaces the Dockerfile's base image.")
    ] = "",
    fresh: Annotated[bool, typer.Option(help="Build even what the registry has.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build one service's image from HEAD and push it; print its reference by digest."""
    if registry:
        built = image.build(REPO, name, registry=registry, base=base, fresh=fresh)
    else:
        here = _site()
        built = image.build(
            REPO,
            name,
            registry=here.registry,
            base=base or here.base_image,
            build_volumes=here.build_volumes,
            fresh=fresh,
        )
    typer.echo(built.as_json() if as_json else built.reference)


@app.command("environment")
def environment_variables() -> None:
    """Print what programs need to reach this S3 and manifest repo: eval "$(flow environment)"."""
    here = _site()
    found = here.aws_environment() | {"MANIFEST_REPO": here.manifest_repo}
    if here.kubectl.kubeconfig:
        found["KUBECONFIG"] = str(here.kubectl.kubeconfig)
    for name, value in sorted(found.items()):
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command("dev")
def run_here(
    name: Annotated[str, typer.Argument(help="The service, a folder of apps/.")],
    env: EnvOption = "dev",
    port: Annotated[int, typer.Option(help="Port of this machine to listen on.")] = 8000,
) -> None:
    """Run a service here with the neighbours that its pods have; again when its sources change."""
    here = _site()
    plan = dev.read(here.kubectl, name, env)
    for one in plan.neighbours:
        where = f"{one.namespace}/{one.service}:{one.port}"
        typer.echo(f"{where} is reached at 127.0.0.1:{one.local}")
    for text in plan.missing:
        typer.echo(f"not here: {text}", err=True)
    with dev.reached(here.kubectl, plan.neighbours):
        typer.echo(f"{name} listens at http://127.0.0.1:{port}; Ctrl-C ends it")
        dev.run(REPO, name, plan, port)


def _site() -> sites.Site:
    return sites.find(os.environ.get("CLUSTER", "machine"), os.environ)


def _digits(environment: str) -> None:
    rows = digits.predict(sites.GATEWAY, f"{environment}.slipway.localhost")
    table = Table("true", "predicted", "probability", "model version", "pod", "ms")
    for row in rows:
        table.add_row(
            row.true_label,
            row.label,
            f"{row.probability:.4f}",
            row.model_version,
            row.pod,
            f"{row.milliseconds:.1f}",
        )
    _console().print(table)


def _archive(here: sites.Site, environment: str) -> None:
    bucket, s3 = stages.archives_bucket(environment), here.s3()
    content = archive.make_zip(DEMO_USER)
    etag = archive.put(s3, bucket, DEMO_USER, content)
    typer.echo(f"s3://{bucket}/{DEMO_USER}/result.zip: {len(content):,} bytes")
    job = stages.run_extractor(here, environment)
    arrived = archive.wait(
        s3,
        bucket,
        DEMO_USER,
        etag,
        timeout=90,
        why=lambda: here.kubectl.run(
            "logs", f"job/{job}", "-n", environment, "--all-containers", "--tail=5", check=False
        ),
    )
    kinds = Counter(one.content_type for one in arrived)
    table = Table("content type", "files", "bytes", "for example")
    for kind, count in sorted(kinds.items()):
        of_kind = [one for one in arrived if one.content_type == kind]
        table.add_row(kind, str(count), f"{sum(one.size for one in of_kind):,}", of_kind[0].path)
    table.add_row("all", str(len(arrived)), f"{sum(one.size for one in arrived):,}", "")
    _console().print(table)


def _console() -> Console:
    # A pipe has no width of its own; pod names and Korean paths are not cut in a log.
    return Console() if sys.stdout.isatty() else Console(width=140)


def main() -> None:
    """Run the command; a failure is reported on standard error and ends with exit code 1."""
    try:
        app()
    except FlowError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except ClusterError as error:
        typer.echo(f"error: {error.report()}", err=True)
        sys.exit(1)
