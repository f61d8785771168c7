"""The `unzip` command.

Exit codes: 0 done (refused archives included: they are recorded), 1 S3 or an archive failed,
2 wrong usage, 3 the S3 server cannot be relied on, 4 the archive was refused (`extract` only).
"""

from __future__ import annotations

import gc
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from types import FrameType
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import boto3
import typer
from botocore.exceptions import BotoCoreError
from prometheus_client import push_to_gateway
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from kit.lifecycle import start, termination
from kit.lifecycle.termination import CANNOT_WORK, Reason
from kit.memory.allocator import give_back_freed_memory
from kit.settings import reference
from kit.telemetry import logs
from unzip.extract import summary
from unzip.extract.existing_files import find_earlier
from unzip.extract.extractor import MANIFEST, Extractor, Replaced, Source
from unzip.extract.manifest import encoded, manifest
from unzip.extract.manifest_upload import upload_manifest
from unzip.extract.memory import TooLittleMemoryError
from unzip.extract.publication import Publication
from unzip.ledger.ledger import Archive, Claim, Ledger, Outcome, State, key_hash
from unzip.metrics import Metrics
from unzip.processing import service
from unzip.processing.worker import Clock, Draining, Stop
from unzip.refusals import Refused
from unzip.s3 import capabilities
from unzip.s3.client import S3, Missing, StoreError, fix_of
from unzip.settings import UnzipSettings

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
log = logs.get("unzip")
# What is not ended when draining is over is given back: that takes requests, too.
_GIVE_BACK_SECONDS = 3
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")]


def _fail(code: int, message: str, fix: str = "") -> NoReturn:
    said = f"unzip: {message}" + (f". {fix}" if fix else "")
    Console(stderr=True, highlight=False).print(said, markup=False, soft_wrap=True)
    termination.leave(Reason(message, fix))
    raise typer.Exit(code)


def _configured() -> UnzipSettings:
    settings = start.load(UnzipSettings)
    logs.configure(
        level=settings.log_level,
        service="unzip",
        pod=settings.pod_name,
        release=settings.release_name,
        revision=settings.source_revision,
    )
    # At every start it tells where it found credentials and endpoint.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    return settings


def _store(settings: UnzipSettings, bucket: str = "", metrics: Metrics | None = None) -> S3:
    counted = (metrics or Metrics()).retries
    return S3(
        bucket or settings.bucket,
        concurrency=settings.writers + settings.readers,
        attempts=settings.request_attempts,
        patience_seconds=settings.request_patience_seconds,
        on_retry=lambda error: counted.labels(error.code).inc(),
        session=_session(),
    )


def _stop_on_signals(settings: UnzipSettings) -> Stop:
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested.is_set():
            sys.exit(128 + number)
        log.info("draining", signal=number, seconds=settings.drain_seconds)
        stop.request(settings.drain_seconds)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def _guarded(settings: UnzipSettings, work: Callable[[], int]) -> NoReturn:
    try:
        code = work()
    except TooLittleMemoryError as error:
        _fail(2, str(error))
    except capabilities.UnfitStore as error:
        log.error("unfit store", error=str(error))
        termination.leave(Reason(str(error)))
        raise typer.Exit(3) from None
    except StoreError as error:
        where, fix = settings.bucket, fix_of(error)
        log.error("storage failed", bucket=where, code=error.code, error=str(error), fix=fix)
        termination.leave(Reason(f"bucket {where!r} cannot be used: {error.code} {error}", fix))
        raise typer.Exit(1) from None
    raise typer.Exit(code)


def _session() -> boto3.session.Session:
    """The session of the AWS SDK's own variables and files; exit 2 where it has no keys."""
    try:
        session = boto3.session.Session()
        if session.get_credentials() is not None:
            return session
        why = "none were found"
    except BotoCoreError as error:
        why = str(error)
    _fail(
        CANNOT_WORK,
        f"no keys for S3: {why}",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where the account has a role.",
    )


@app.command()
def run(dry_run: DryRun = False) -> None:
    """Extract every archive that is waiting, tell whoever is to be told, then exit."""
    settings = _configured()
    stop = _stop_on_signals(settings)
    metrics = Metrics()
    store = _store(settings, metrics=metrics)

    def work() -> int:
        with service.assembled(settings, store, stop, metrics) as ours:
            if dry_run:
                for archive in ours.waiting(service.Tally()):
                    log.info("would extract", key=archive.key, size=archive.size)
                return 0
            capabilities.check_conditional_writes(store, settings.state_prefix)
            try:
                tally = ours.sweep()
            finally:
                _push(settings, ours)
            log.info("done", **asdict(tally))
        return 0

    _guarded(settings, work)


def _push(settings: UnzipSettings, ours: service.Service) -> None:
    if not settings.pushgateway_url:
        return
    try:
        push_to_gateway(
            settings.pushgateway_url,
            job=settings.release_name or "unzip",
            registry=ours.metrics.registry,
            timeout=5,
        )
    except OSError as error:
        log.warning("metrics not pushed", error=str(error))


@app.command("watch")
def watch_command() -> None:
    """Extract archives as notifications come (SQS, NATS, webhook at /events), until SIGTERM."""
    # A CronJob's every run would pay for the web server's import.
    from kit.http import server  # noqa: PLC0415
    from kit.lifecycle.health import Health  # noqa: PLC0415
    from unzip.triggers import watch  # noqa: PLC0415

    settings = _configured()
    stop = Stop()
    metrics = Metrics()
    store = _store(settings, metrics=metrics)

    def work() -> int:
        capabilities.check_conditional_writes(store, settings.state_prefix)
        with service.assembled(settings, store, stop, metrics) as ours:
            watcher = watch.Watcher(ours)
            watcher.start()
            threads = []
            if settings.sqs_queue_url:
                queue = watch.Queue(boto3.Session().client("sqs"), settings.sqs_queue_url, ours)
                threads.append(threading.Thread(target=queue.run, name="sqs", daemon=True))
            if settings.nats_url:
                from unzip.triggers.nats import Subscriber  # noqa: PLC0415

                subscriber = Subscriber(ours, watcher)
                threads.append(threading.Thread(target=subscriber.run, name="nats", daemon=True))
            for thread in threads:
                thread.start()
            health = Health()
            draining = partial(stop.request, settings.drain_seconds)
            application = watch.create_app(ours, watcher, health)
            server.serve(application, settings, health, on_drain=draining)
            draining()  # it may have ended without a signal
            watcher.join()
            for thread in threads:
                thread.join(timeout=settings.drain_seconds + _GIVE_BACK_SECONDS)
        return 0

    _guarded(settings, work)


@app.command()
def extract(
    source: Annotated[str, typer.Argument(help="s3://bucket/key.zip")],
    target: Annotated[str, typer.Argument(help="s3://bucket/folder/")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prove the archive and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Extract one archive by hand, without the ledger; its manifest is written last."""
    settings = _configured()
    logs.configure(level="warning", service="unzip")
    bucket, key = _address(source)
    target_bucket, prefix = _address(target)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    stop = _stop_on_signals(settings)
    here = _store(settings, bucket)
    there = here if target_bucket == bucket else _store(settings, target_bucket)
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
            proving = bar.add_task("proving", total=total)
            with Publication(
                extractor, reader, directory.members, there, prefix, check=stop.check
            ) as publication:
                types = extractor.verify(
                    reader,
                    directory.members,
                    check=stop.check,
                    take=None if dry_run else publication.take,
                    progress=lambda size: bar.advance(proving, size),
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
        _fail(4, f"{source} is refused: {error}")
    except Missing:
        _fail(1, f"{source} is not there")
    except (Replaced, StoreError) as error:
        _fail(1, str(error))
    except Draining:
        _fail(1, "stopped before the end; what was written carries no manifest")
    if as_json:
        for piece in encoded(document):
            typer.echo(piece, nl=False)
        typer.echo()
    else:
        verb = "would become" if dry_run else "became"
        typer.echo(f"{source} {verb} {summary.contents(directory)}, in {target}")
        if guess := summary.guess(directory.charset):
            typer.echo(guess)


def _address(url: str) -> tuple[str, str]:
    parts = urlsplit(url, allow_fragments=False)
    key = url.removeprefix(f"s3://{parts.netloc}").removeprefix("/")
    if parts.scheme != "s3" or not parts.netloc:
        _fail(2, f"{url!r} is no address: write s3://bucket/key")
    return parts.netloc, key


@app.command()
def retry(
    key: Annotated[str, typer.Argument(help="The archive's key, e.g. kim/result.zip")],
    force: Annotated[
        bool, typer.Option("--force", help="Extract again what was published, too.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Have a refused or failed archive tried again by the next run."""
    settings = _configured()
    logs.configure(level="warning", service="unzip")
    store = _store(settings)
    ledger = Ledger(store, settings.state_prefix, owner="retry")
    try:
        head = store.head(key)
        archive = Archive(settings.bucket, key, head.etag, head.size)
        outcome = ledger.outcome(archive)
        if outcome is None:
            typer.echo(f"{key} is not closed: it waits or is under way")
            return
        if outcome.state is State.PUBLISHED and not force:
            _fail(2, f"{key} was published; --force extracts it again")
        run = outcome.run + 1 if dry_run else ledger.reopen(outcome).run
    except Missing:
        _fail(1, f"there is no {key} in {settings.bucket}")
    except StoreError as error:
        _fail(1, str(error))
    typer.echo(f"{key} {'would be' if dry_run else 'is'} open again, as run {run}")


@app.command()
def status(
    key: Annotated[str, typer.Argument(help="Only this archive.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the ledger: what is under way, what became of the rest."""
    settings = _configured()
    logs.configure(level="warning", service="unzip")
    ledger = Ledger(_store(settings), settings.state_prefix, owner="status")
    try:
        rows = _rows(ledger, key_hash(settings.bucket, key) if key else "")
    except StoreError as error:
        _fail(1, str(error))
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    if not rows:
        typer.echo("the ledger is empty" if not key else f"{key} is not in the ledger")
        return
    table = Table(
        *("archive", "state", "reason"), *("files", "bytes", "attempts"), "when", "detail"
    )
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        # Names are shown with their control characters escaped.
        member = f" (member {row['member']!r})" if row["member"] else ""
        texts = {name: str(row[name]) for name in _COLUMNS}
        texts["detail"] += member
        table.add_row(*(Text(texts[name]) for name in _COLUMNS))
    # Not cut to 80 columns when the output goes to a file.
    Console(width=None if sys.stdout.isatty() else 250).print(table)


_COLUMNS = ("key", "state", "reason", "members", "bytes", "attempts", "when", "detail")


def _rows(ledger: Ledger, begins: str) -> list[dict[str, Any]]:
    def read(kind: str, identity: str) -> dict[str, Any] | None:
        try:
            document = ledger.store.get(f"{ledger.prefix}{kind}/{identity}.json")
        except Missing:
            return None
        if kind == "closed":
            outcome = Outcome.from_json(document.body)
            return {
                "key": outcome.archive.key,
                "state": str(outcome.state),
                "reason": outcome.reason,
                "members": outcome.members,
                "bytes": outcome.total_bytes,
                "attempts": outcome.attempts,
                "when": outcome.finished_at,
                "detail": outcome.detail,
                "member": outcome.member,
                "etag": outcome.archive.etag.strip('"'),
            }
        claim = Claim.from_json(document.body)
        state = "waiting" if claim.released else "under way"
        if not claim.released and document.age > claim.lease_seconds:
            state = "stale"
        return {
            "key": claim.archive.key,
            "state": state,
            "reason": "",
            "members": sum(end - start for start, end in claim.done),
            "bytes": claim.archive.size,
            "attempts": claim.attempts,
            "when": claim.claimed_at,
            "detail": claim.error or claim.last_error or claim.owner,
            "member": "",
            "etag": claim.archive.etag.strip('"'),
        }

    wanted = [
        (kind, identity)
        for kind in ("open", "closed")
        for identity in ledger.ids(kind)
        if identity.startswith(begins)
    ]
    with ThreadPoolExecutor(16) as pool:
        rows = [row for row in pool.map(lambda pair: read(*pair), wanted) if row is not None]
    return sorted(rows, key=lambda row: (row["key"], row["when"]))


@app.command("settings")
def show_settings(as_json: AsJson = False) -> None:
    """Print the reference of the settings."""
    typer.echo(reference(UnzipSettings, title="unzip", as_json=as_json), nl=False)


def main() -> None:
    """Run the command."""
    give_back_freed_memory()
    # What was imported stays: the collector need not walk it again and again. Few of our own
    # objects form circles, so it may come by less often.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    app()
