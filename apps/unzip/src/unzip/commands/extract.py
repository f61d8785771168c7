"""`unzip extract`: one archive by hand."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from kit.telemetry import logs
from unzip.commands.common import AsJson, bucket_of, configured, fail, stop_on_signals
from unzip.extract import summary
from unzip.extract.existing_files import find_earlier
from unzip.extract.extractor import Extractor
from unzip.extract.manifest import encoded, manifest
from unzip.extract.manifest_upload import upload_manifest
from unzip.extract.publication import Publication
from unzip.extract.source import MANIFEST, Replaced, Source
from unzip.processing import service
from unzip.processing.stop import Draining
from unzip.processing.timing import Clock
from unzip.refusals import Refused
from unzip.s3.errors import Missing, StoreError


def extract(
    source: Annotated[str, typer.Argument(help="s3://bucket/key.zip")],
    target: Annotated[str, typer.Argument(help="s3://bucket/folder/")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Verify the archive and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Extract one archive by hand, without the ledger; its manifest is written last."""
    settings = configured()
    logs.configure(level="warning", service="unzip")
    bucket, key = address(source)
    target_bucket, prefix = address(target)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    stop = stop_on_signals(settings)
    here = bucket_of(settings, bucket)
    there = here if target_bucket == bucket else bucket_of(settings, target_bucket)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    try:
        head = here.head(key)
        reader = Source(here, key, head.etag, head.size)
        clock = Clock()
        with (
            ExitStack() as stack,
            Extractor(service.options(settings, here)) as extractor,
            Progress(
                *columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal
            ) as bar,
        ):
            limits = settings.limits(key_bytes=len(prefix.encode()))
            directory = stack.enter_context(extractor.directory(reader, limits))
            total = sum(member.size for member in directory.members)
            verifying = bar.add_task("verifying", total=total)
            with Publication(
                extractor, reader, directory.members, there, prefix, check=stop.check
            ) as publication:
                types = extractor.verify(
                    reader,
                    directory.members,
                    check=stop.check,
                    take=None if dry_run else publication.take,
                    progress=lambda size: bar.advance(verifying, size),
                )
                clock.lap("verify")
                if not dry_run:
                    writing = bar.add_task("writing", total=total)
                    earlier = find_earlier(there, prefix, directory.members)
                    if earlier.manifest:
                        # From here on the files are of two versions: nothing is published.
                        there.delete(prefix + MANIFEST)
                    publication.publish(
                        types,
                        fenced=stop.check,
                        existing=earlier.members,
                        published=lambda i: bar.advance(writing, directory.members[i].size),
                    )
                    clock.lap("publish")
            document = manifest(
                bucket=bucket,
                key=key,
                etag=head.etag,
                size=head.size,
                directory=directory,
                types=types,
                seconds=clock.seconds,
            )
            if not dry_run:
                upload_manifest(there, prefix, encoded(document), reader.tag, fenced=stop.check)
    except Refused as error:
        fail(4, f"{source} is refused: {error}")
    except Missing:
        fail(1, f"{source} is not there")
    except (Replaced, StoreError) as error:
        fail(1, str(error))
    except Draining:
        fail(1, "stopped before the end; what was written carries no manifest")
    if as_json:
        for piece in encoded(document):
            typer.echo(piece, nl=False)
        typer.echo()
    else:
        verb = "would become" if dry_run else "became"
        typer.echo(f"{source} {verb} {summary.contents(directory)}, in {target}")
        if guess := summary.guess(directory.charset):
            typer.echo(guess)


def address(url: str) -> tuple[str, str]:
    parts = urlsplit(url, allow_fragments=False)
    key = url.removeprefix(f"s3://{parts.netloc}").removeprefix("/")
    if parts.scheme != "s3" or not parts.netloc:
        fail(2, f"{url!r} is no address: write s3://bucket/key")
    return parts.netloc, key
