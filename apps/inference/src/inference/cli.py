# ruff: noqa: PLC0415 - the init container needs a third of what the server imports
"""Serves ONNX models over the Open Inference Protocol, and fetches them into a pod."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from inference.errors import ModelError
from inference.settings import InferenceSettings
from kit.lifecycle import start, termination
from kit.lifecycle.termination import CANNOT_WORK, Reason
from kit.settings import reference
from kit.telemetry import logs

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def serve() -> None:
    """Run the server; its settings come from the environment."""
    from inference import service

    service.run(start.load(InferenceSettings))


@app.command()
def fetch(
    *,
    uri: Annotated[str, typer.Option(help="A version: s3://bucket/name/version or a folder.")] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME/VERSION=URI@sha256:HEX, instead of --uri; may be repeated."),
    ] = None,
    to: Annotated[Path, typer.Option(help="Model repository it is put into.")] = Path("/models"),
    sha256: Annotated[
        str, typer.Option(help="Refuse a model.json with another sha256 (64 hex digits).")
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until giving up.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Fetch models into a repository folder: what the init container does.

    With several models a line, or a JSON object, is printed for each.
    """
    from inference.repository import fetch as fetching

    settings = start.load(InferenceSettings)
    level = "error" if as_json else settings.log_level  # stdout is for the object alone
    logs.configure(level=level, service="inference", pod=settings.pod_name)
    if bool(uri) == bool(model):
        raise typer.BadParameter("give one of --uri and --model")
    try:
        wanted = [fetching.parse_wanted(text) for text in model or ()]
        wanted = wanted or [fetching.Wanted(uri, sha256.lower())]
        found = asyncio.run(fetching.fetch_all(wanted, to, time_limit=timeout))
    except ModelError as error:
        reason = Reason(str(error), error.fix)
        typer.echo(f"inference fetch: {reason}", err=True)
        termination.leave(reason)
        raise typer.Exit(CANNOT_WORK if error.final else 1) from None
    for fetched in found:
        document = {
            "folder": str(fetched.folder),
            "name": fetched.name,
            "version": fetched.version,
            "sha256": fetched.sha256,
            "bytes_read": fetched.bytes_read,
        }
        typer.echo(
            json.dumps(document)
            if as_json
            else f"{fetched.folder}: {fetched.name} {fetched.version}, sha256 {fetched.sha256}, "
            f"{fetched.bytes_read} bytes read"
        )


@app.command()
def check(*, as_json: AsJson = False) -> None:
    """Load and warm every model of the repository, as `serve` would, and say what is wrong."""
    from inference import service

    settings = start.load(InferenceSettings)
    logs.configure(level="error", service="inference")
    rows = asyncio.run(service.check(settings))
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        for row in rows:
            typer.echo(f"{row['name']} {row['version']}: {row['state']} {row['reason']}".rstrip())
            if "batching" in row:
                batched = "batched" if row["batching"]["enabled"] else "not batched"
                typer.echo(f"  {batched}: {row['batching']['reason']}")
            for warning in row.get("warnings", []):
                typer.echo(f"  warning: {warning}")
    if not rows or any(row["state"] != "READY" for row in rows):
        if not rows:
            typer.echo(f"inference check: no model in {settings.model_repository}", err=True)
        raise typer.Exit(1)


@app.command()
def describe(
    source: Annotated[Path, typer.Argument(help="An .onnx file, or a folder with one.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the model.")],
    version: Annotated[str, typer.Option(help="Its version.")] = "1",
    to: Annotated[Path, typer.Option(help="Repository that the version's folder is made in.")],
    as_json: AsJson = False,
) -> None:
    """Make a version's folder of an ONNX file, with what model.json can say, and try it."""
    from inference.models import describe as describing

    settings = start.load(InferenceSettings)
    logs.configure(level="error", service="inference")
    try:
        found = describing.describe(source, to, name=name, version=version, settings=settings)
    except ModelError as error:
        said = f"{error}; {error.fix}" if error.fix else str(error)
        typer.echo(f"inference describe: {said}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(found))
        return
    batched = "batched" if found["batching"]["enabled"] else "not batched"
    typer.echo(f"{found['folder']}: sha256 {found['sha256']}")
    typer.echo(f"  {batched}: {found['batching']['reason']}")
    for warning in found["warnings"]:
        typer.echo(f"  warning: {warning}")


@app.command()
def settings(*, as_json: AsJson = False) -> None:
    """Print the reference of all settings."""
    typer.echo(reference(InferenceSettings, title="inference", as_json=as_json), nl=False)


def main() -> None:
    """Run the command, and end with it.

    Python's own clean-up takes the interpreter from the S3 client's threads; one that is still
    letting go of an answer then aborts the process, whose work was done.
    """
    status: str | int | None = 0
    try:
        app()
    except SystemExit as ended:
        status = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    main()
