"""Trains the digits model, evaluates it and publishes it to S3."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError

from trainer import publishing

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

DEFAULT_FOLDER = Path("build/model")
DEFAULT_REPOSITORY = "s3://models"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Repository = Annotated[
    str,
    typer.Option(
        help="Where models are published: s3://bucket or s3://bucket/prefix.", metavar="URI"
    ),
]
MinAccuracy = Annotated[
    float, typer.Option(min=0, max=1, help="Refuse a model whose held-out accuracy is lower.")
]


@app.command()
def train(
    *,
    to: Annotated[Path, typer.Option(help="Folder for model.onnx and model.json.")] = (
        DEFAULT_FOLDER
    ),
    name: Annotated[str, typer.Option(help="Name of the model.")] = "digits",
    version: Annotated[str, typer.Option(help="Version it will be published as.")] = "1",
    hidden: Annotated[int, typer.Option(min=1, help="Units of the hidden layer.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train, export to ONNX, and score the export on the held-out part."""
    from trainer import training  # scikit-learn, which publishing needs not  # noqa: PLC0415

    trained = training.train(
        name=name,
        version=version,
        hidden=hidden,
        seed=seed,
        source_revision=os.environ.get("SOURCE_REVISION", ""),
    )
    trained.write(to)
    metrics = trained.manifest["metrics"]
    _print(
        {
            "folder": str(to),
            "name": name,
            "version": version,
            "sha256": trained.manifest["sha256"],
            "metrics": metrics,
        },
        f"{to}: {name} {version}, held-out accuracy {metrics['accuracy']:.4f}, "
        f"sha256 {trained.manifest['sha256']}",
        as_json=as_json,
    )


@app.command()
def publish(
    *,
    source: Annotated[
        Path, typer.Option("--from", help="Folder with model.onnx and model.json.")
    ] = DEFAULT_FOLDER,
    repository: Repository = DEFAULT_REPOSITORY,
    version: Annotated[
        str, typer.Option(help="Publish as this version; `next` takes the next free number.")
    ] = "",
    min_accuracy: MinAccuracy = 0.95,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a trained model into S3, never over another one. Credentials are the AWS SDK's."""
    try:
        model, manifest = publishing.read(source)
        publishing.check_metrics(manifest, min_accuracy=min_accuracy)
        client = boto3.Session().client("s3")
        if version == "next":
            version = publishing.next_version(client, repository, str(manifest["name"]))
        manifest["version"] = version or manifest["version"]
        if dry_run:
            bucket, prefix = publishing.parse_repository(repository)
            path = "/".join(filter(None, (prefix, manifest["name"], manifest["version"])))
            published = publishing.Published(
                manifest["name"],
                manifest["version"],
                f"s3://{bucket}/{path}",
                hashlib.sha256(publishing.dump(manifest)).hexdigest(),
                created=False,
            )
        else:
            published = publishing.publish(
                client, repository, model, manifest, publishing.data_files(source, manifest)
            )
    except (publishing.PublishError, BotoCoreError, ClientError) as error:
        typer.echo(f"trainer: {error}", err=True)
        raise typer.Exit(1) from None
    word = "would publish" if dry_run else "published" if published.created else "unchanged"
    _print(
        published.as_dict(),
        f"{word} {published.uri} sha256 {published.sha256}",
        as_json=as_json,
    )


@app.command()
def fetch(
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="A model of MLflow: models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/PATH.",
        ),
    ],
    to: Annotated[Path, typer.Option(help="Folder for model.onnx.")] = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Get a model of MLflow as an ONNX file; a scikit-learn model is converted.

    The server is that of MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder.
    """
    from trainer.mlflow_models import download  # what converts is slow to import  # noqa: PLC0415
    from trainer.mlflow_models.errors import MlflowModelError  # noqa: PLC0415

    try:
        found = download.download(source, to)
    except MlflowModelError as error:
        typer.echo(f"trainer: {error}", err=True)
        raise typer.Exit(1) from None
    document = {
        "folder": str(found.folder),
        "flavor": found.flavor,
        "version": found.version,
        "run": found.run,
        "notes": found.notes,
    }
    said = "".join(f"\n  {note}" for note in found.notes)
    _print(document, f"{to}/model.onnx from {source} ({found.flavor}){said}", as_json=as_json)


def _print(document: dict[str, Any], line: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(document) if as_json else line)


def main() -> None:
    """Run the command."""
    app()
