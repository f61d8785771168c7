"""The `unzip` command."""

from __future__ import annotations

from typing import Annotated

import typer
from kit import logs
from kit.settings import reference

from unzip.extract import MANIFEST, SOURCE_TAG, Extractor, Options, Replaced, Source
from unzip.find import archives, result_prefix
from unzip.process import extract_once
from unzip.refusals import Refused
from unzip.settings import UnzipSettings
from unzip.store import S3, Missing, StoreError

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
log = logs.get("unzip")


def _options(settings: UnzipSettings) -> Options:
    return Options(
        readers=settings.readers,
        writers=settings.writers,
        span_bytes=settings.span_bytes,
        part_bytes=settings.part_bytes,
        buffer_bytes=settings.buffer_bytes,
    )


def _configured() -> UnzipSettings:
    settings = UnzipSettings()
    logs.configure(
        level=settings.log_level,
        service="unzip",
        pod=settings.pod_name,
        release=settings.release_name,
        revision=settings.source_revision,
    )
    return settings


@app.command()
def run() -> None:
    """Extract every archive that is waiting, then exit."""
    settings = _configured()
    store = S3(settings.bucket, concurrency=settings.writers)
    found = published = refused = failed = 0
    with Extractor(_options(settings)) as extractor:
        for entry in archives(
            store,
            prefix=settings.prefix,
            suffix=settings.suffix,
            state_prefix=settings.state_prefix,
        ):
            found += 1
            prefix = result_prefix(entry.key)
            try:
                done = store.head(prefix + MANIFEST).metadata.get(SOURCE_TAG)
            except Missing:
                done = None
            if done == entry.etag.strip('"'):
                continue
            try:
                document = extract_once(
                    extractor,
                    Source(store, entry.key, entry.etag, entry.size),
                    store,
                    prefix,
                    settings.limits(key_bytes=len(prefix.encode())),
                    bucket=settings.bucket,
                )
            except Refused as error:
                refused += 1
                log.warning(
                    "refused",
                    key=entry.key,
                    reason=error.reason,
                    detail=error.detail,
                    member=error.member,
                )
            except (Replaced, StoreError) as error:
                failed += 1
                log.error("failed", key=entry.key, error=str(error))
            else:
                published += 1
                log.info(
                    "published",
                    key=entry.key,
                    members=len(document["members"]),
                    bytes=document["bytes"],
                    skipped=len(document["skipped"]),
                    seconds=document["seconds"],
                )
    log.info("done", found=found, published=published, refused=refused, failed=failed)


@app.command("settings")
def show_settings(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print the reference of the settings."""
    typer.echo(reference(UnzipSettings, title="unzip", as_json=as_json), nl=False)


def main() -> None:
    """Run the command."""
    app()
