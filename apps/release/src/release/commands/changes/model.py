"""`release model`: add, list, remove and set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from release.changes import models, transaction
from release.changes.models import ModelSet
from release.commands import output
from release.commands.changes import model_add
from release.commands.frame import committed, now, opened, reported
from release.commands.options import (
    DryRunOption,
    EnvOption,
    JsonOption,
    ManifestOptions,
    OutputOption,
    ReadsOption,
    SigningOptions,
    SignOption,
    expanded,
)
from release.errors import ReleaseError
from release.values import references, tree

app = typer.Typer(no_args_is_help=True, help="The models an environment serves.")
app.command("add")(model_add.add)


@app.command("list")
@expanded
def list_models(
    *,
    env: Annotated[str, typer.Option("--env", help="Only this environment, like dev.")] = "",
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Show which models each environment serves, as Git has it."""
    with opened(json_output, manifests) as repo:
        at = repo.tree(repo.fetch())
        if env:
            tree.require_environment(at, env)
        found = [
            (environment, release, model)
            for environment in ([env] if env else tree.environments(at))
            for release, model in models.models_of(at, environment)
        ]
        content = {
            "models": [
                {"environment": environment, "release": release, **vars(model)}
                for environment, release, model in found
            ]
        }
        rows = [
            (environment, release, model.name, model.version, model.uri, model.sha256[:12])
            for environment, release, model in found
        ]
        columns = ("env", "release", "model", "version", "uri", "sha256")
        output.printed(json_output, content, output.table(columns, rows))


@app.command("remove")
@expanded
def remove(
    name: Annotated[str, typer.Argument(help="Name of the model, like iris.")],
    *,
    env: EnvOption,
    last: Annotated[
        bool,
        typer.Option("--last", help="Also where its server then has no model, and so no pods."),
    ] = False,
    manifests: ManifestOptions,
    sign: SignOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Take a model away from an environment; what was published stays in S3."""
    with opened(json_output, manifests) as repo:
        planner = models.ModelRemove(env, name, now(), last)
        result = transaction.apply(repo, planner, dry_run=dry_run, sign=sign)
        output.show(json_output, output.outcome(result, dry_run))


@app.command("set")
@expanded
def model_set(
    *,
    env: EnvOption,
    name: Annotated[str, typer.Option("--name", help="Model, like digits.")] = "",
    version: Annotated[str, typer.Option("--version", help="Its version, like 3.")] = "",
    uri: Annotated[
        str, typer.Option("--uri", help="Where it lies, like s3://models/digits/3.")
    ] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="Digest of its model.json.")] = "",
    published: Annotated[
        Path | None,
        typer.Option("--from", help="JSON of `trainer publish --json`, instead of those four."),
    ] = None,
    release: Annotated[
        str, typer.Option("--release", help="Release that serves it.")
    ] = "inference",
    manifests: ManifestOptions,
    signing: SigningOptions,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write a new model into an environment."""
    with reported(json_output):
        if published is not None:
            name, version, uri, sha256 = model_file(published)
        model = references.model(name, version, uri, sha256)
        with manifests.open() as repo:
            planner = ModelSet(env, release, model, now())
            committed(
                repo, planner, signing,
                dry_run=dry_run, json_output=json_output, output_file=output_file,
            )  # fmt: skip


def model_file(path: Path) -> tuple[str, str, str, str]:
    """Name, version, uri and sha256 out of what `trainer publish --json` printed."""
    try:
        content = json.loads(path.read_text())
        return tuple(str(content[key]) for key in ("name", "version", "uri", "sha256"))  # type: ignore[return-value]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            f"{path} does not say which model was published ({error!r}).",
            fix="pass the output of `trainer publish --json`",
        ) from error
