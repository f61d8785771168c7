"""`release image set` and `release image parse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from release.changes.images import ImageSet
from release.commands import output
from release.commands.frame import committed, now, reported
from release.commands.options import (
    AllowUnrelatedOption,
    DryRunOption,
    EnvOption,
    JsonOption,
    OutputOption,
    ReadsOption,
    SigningOptions,
    SourcedManifestOptions,
    expanded,
)
from release.errors import ReleaseError
from release.values import references

if TYPE_CHECKING:
    from release.registry.client import Registry
    from release.registry.signatures import Signer


app = typer.Typer(no_args_is_help=True, help="The images an environment runs.")


@app.command("set")
@expanded
def image_set(
    *,
    env: EnvOption,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", help="NAME=REPOSITORY:TAG@sha256:…; may be repeated."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", help="Folder of files image-NAME, each with one REPOSITORY:TAG@sha256:…."
        ),
    ] = None,
    revision: Annotated[
        str, typer.Option("--revision", envvar="SOURCE_REVISION", help="Commit they are built of.")
    ],
    check_registry: Annotated[
        bool,
        typer.Option(
            "--check-registry/--no-check-registry", help="Ask the registry for the digests."
        ),
    ] = True,
    require_signature: Annotated[
        bool,
        typer.Option("--require-signature", help="Refuse images that the signer has not signed."),
    ] = False,
    signature_key: Annotated[
        Path | None,
        typer.Option(
            "--signature-key", envvar="SIGNATURE_KEY", help="Signer, by public key (PEM file)."
        ),
    ] = None,
    signature_identity: Annotated[
        str,
        typer.Option(
            "--signature-identity",
            envvar="SIGNATURE_IDENTITY",
            help="Signer without a key, by the certificate's identity; checked by cosign.",
        ),
    ] = "",
    signature_issuer: Annotated[
        str,
        typer.Option(
            "--signature-issuer",
            envvar="SIGNATURE_ISSUER",
            help="Who vouches for that identity.",
        ),
    ] = "https://token.actions.githubusercontent.com",
    allow_unrelated: AllowUnrelatedOption = False,
    manifests: SourcedManifestOptions,
    signing: SigningOptions,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write new images into an environment, several in one commit.

    An image named `proxy` is written for every release that runs it (proxy and worker).
    A release on hold or at a newer build is left alone; if that leaves nothing, the exit
    code is 4 (held) or 3 (superseded).
    """
    with reported(json_output):
        wanted = dict(references.image(text, revision) for text in [*(image or ())])
        if images is not None:
            wanted |= dict(references.image(text, revision) for text in image_files(images))
        if not wanted:
            raise ReleaseError("No image is named.", fix="pass --image, or --images FOLDER")
        wanted_signer = (
            signer(signature_key, signature_identity, signature_issuer)
            if require_signature
            else None
        )
        for new in wanted.values():
            if check_registry:
                registry().require(new)
            if wanted_signer is not None:
                wanted_signer.require(registry(), new)
        with manifests.open() as repo, manifests.sources(repo) as order:
            planner = ImageSet(env, wanted, order, now(), allow_unrelated)
            committed(
                repo, planner, signing,
                dry_run=dry_run, json_output=json_output, output_file=output_file,
            )  # fmt: skip


@app.command("parse")
@expanded
def image_parse(
    *,
    file: Annotated[Path, typer.Argument(help="File image-NAME with one reference in it.")],
    output_file: OutputOption = None,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Read what `make image` printed: reference, repository, tag and digest."""
    with reported(json_output):
        name, read = references.image(image_file(file), "0" * 40)
        values = {
            "name": name,
            "reference": f"{read.repository}:{read.tag}@{read.digest}",
            "repository": read.repository,
            "tag": read.tag,
            "digest": read.digest,
        }
        output.written(output_file, values)
        output.printed(json_output, values, values["reference"])


def image_file(path: Path) -> str:
    """``NAME=REFERENCE`` from a file image-NAME."""
    try:
        lines = path.read_text().split()
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read: {error.strerror}.") from error
    if not path.name.startswith("image-") or not lines:
        raise ReleaseError(
            f"{path} is no image's file.", fix="name it image-NAME, with the reference in it"
        )
    return f"{path.name.removeprefix('image-')}={lines[-1]}"


def image_files(folder: Path) -> list[str]:
    """``NAME=REFERENCE`` for every file image-NAME of a folder."""
    return [image_file(path) for path in sorted(folder.glob("image-*"))]


# What most commands do without is imported where it is used: an HTTP client and cryptography
# together take as long to import as everything else.
def registry() -> Registry:
    """What asks registries."""
    from release.registry.client import Registry  # noqa: PLC0415

    return Registry()


def signer(key: Path | None, identity: str, issuer: str) -> Signer:
    """Whose signature an image must carry."""
    from release.registry import signatures  # noqa: PLC0415

    return signatures.signer(key, identity, issuer)
