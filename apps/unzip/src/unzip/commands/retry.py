"""`unzip retry`: a closed archive is opened again."""

from __future__ import annotations

from typing import Annotated

import typer

from kit.telemetry import logs
from unzip.commands.common import DryRun, bucket_of, configured, fail
from unzip.ledger.ledger import Ledger
from unzip.ledger.records import Archive, State
from unzip.s3.errors import Missing, StoreError


def retry(
    key: Annotated[str, typer.Argument(help="The archive's key, e.g. kim/result.zip")],
    force: Annotated[
        bool, typer.Option("--force", help="Extract again what was published, too.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Have a refused or failed archive tried again by the next run."""
    settings = configured()
    logs.configure(level="warning", service="unzip")
    store = bucket_of(settings)
    ledger = Ledger(store, settings.state_prefix, owner="retry")
    try:
        head = store.head(key)
        archive = Archive(settings.bucket, key, head.etag, head.size)
        outcome = ledger.outcome(archive)
        if outcome is None:
            typer.echo(f"{key} is not closed: it waits or is under way")
            return
        if outcome.state is State.PUBLISHED and not force:
            fail(2, f"{key} was published; --force extracts it again")
        run = outcome.run + 1 if dry_run else ledger.reopen(outcome).run
    except Missing:
        fail(1, f"there is no {key} in {settings.bucket}")
    except StoreError as error:
        fail(1, str(error))
    typer.echo(f"{key} {'would be' if dry_run else 'is'} open again, as run {run}")
