"""What the commands share: settings, a bucket, signals, and how they fail."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, NoReturn

import boto3
import typer
from botocore.exceptions import BotoCoreError
from rich.console import Console

from kit.lifecycle import start, termination
from kit.lifecycle.termination import CANNOT_WORK, Reason
from kit.telemetry import logs
from unzip.extract.memory import TooLittleMemoryError
from unzip.metrics import Metrics
from unzip.processing.stop import Stop
from unzip.s3 import capabilities
from unzip.s3.client import S3
from unzip.s3.errors import StoreError, fix_of
from unzip.settings import UnzipSettings

log = logs.get("unzip")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")]


def fail(code: int, message: str, fix: str = "") -> NoReturn:
    """End the command with exit code ``code``, saying what failed and the fix."""
    said = f"unzip: {message}" + (f". {fix}" if fix else "")
    Console(stderr=True, highlight=False).print(said, markup=False, soft_wrap=True)
    termination.leave(Reason(message, fix))
    raise typer.Exit(code)


def configured() -> UnzipSettings:
    """The settings of the environment, with the log set up by them."""
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


def bucket_of(settings: UnzipSettings, bucket: str = "", metrics: Metrics | None = None) -> S3:
    """A bucket, the archives' own by default; its repeated requests are counted in ``metrics``."""
    counted = (metrics or Metrics()).retries
    return S3(
        bucket or settings.bucket,
        concurrency=settings.writers + settings.readers,
        attempts=settings.request_attempts,
        patience_seconds=settings.request_patience_seconds,
        on_retry=lambda error: counted.labels(error.code).inc(),
        session=_session(),
    )


def stop_on_signals(settings: UnzipSettings) -> Stop:
    """A Stop that SIGTERM and SIGINT request; a second signal ends the process."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested.is_set():
            sys.exit(128 + number)
        log.info("draining", signal=number, seconds=settings.drain_seconds)
        stop.request(settings.drain_seconds)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def guarded(settings: UnzipSettings, work: Callable[[], int]) -> NoReturn:
    """Do ``work`` and exit with the code it returns, or with the code of its error."""
    try:
        code = work()
    except TooLittleMemoryError as error:
        fail(2, str(error))
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
    fail(
        CANNOT_WORK,
        f"no keys for S3: {why}",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where the account has a role.",
    )
