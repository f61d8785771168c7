"""`unzip status`: the ledger as a table or as JSON."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kit.telemetry import logs
from unzip.commands.common import AsJson, bucket_of, configured, fail
from unzip.ledger.ledger import Ledger
from unzip.ledger.records import Claim, Outcome, key_hash
from unzip.s3.errors import Missing, StoreError


def status(
    key: Annotated[str, typer.Argument(help="Only this archive.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the ledger: what is under way, what became of the rest."""
    settings = configured()
    logs.configure(level="warning", service="unzip")
    ledger = Ledger(bucket_of(settings), settings.state_prefix, owner="status")
    try:
        rows = _rows(ledger, key_hash(settings.bucket, key) if key else "")
    except StoreError as error:
        fail(1, str(error))
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
