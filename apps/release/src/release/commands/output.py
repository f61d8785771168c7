"""What a command says: a table for people, one JSON object for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from release.changes.transaction import Outcome
from release.errors import ReleaseError
from release.render.diff import ApplicationDiff

if TYPE_CHECKING:
    from release.offline.rollback import Done


@dataclass(frozen=True)
class Said:
    """The JSON object for programs, the tables and lines for people."""

    content: Mapping[str, Any]
    parts: Sequence[Table | Text | str]


def printed(json_output: bool, content: Mapping[str, Any], *tables: Table | Text | str) -> None:
    """Print ``content`` as JSON, or the tables and lines for people.

    Colour only on a terminal; off it lines are not wrapped, so that `grep` works.
    """
    if json_output:
        sys.stdout.write(json.dumps(content, indent=2, default=str) + "\n")
        return
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if not sys.stdout.isatty():
        console.width = 1000
    for table in tables:
        console.print(table, markup=False) if isinstance(table, str) else console.print(table)


def failed(json_output: bool, error: ReleaseError) -> None:
    """Say what went wrong: on standard error, and as JSON on standard output when asked."""
    if json_output:
        body = {
            **error.done,
            "error": type(error).__name__.removesuffix("Error"),
            "message": error.message,
            "fix": error.fix,
            "exit_code": int(error.exit),
        }
        sys.stdout.write(json.dumps(body, indent=2, default=str) + "\n")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("release:", error.message, style="red", markup=False)
    if error.fix:
        console.print("  fix:", error.fix, markup=False)


def warned(text: str) -> None:
    """Say on standard error what went wrong without being the outcome."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("release: warning:", text, style="yellow", markup=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """A plain table; cells are shown as they are."""
    made = Table(title=title or None, box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def difference(app: ApplicationDiff) -> Text:
    """One application's changes, coloured like a diff."""
    text = Text()
    for resource in app.resources:
        text.append(f"{app.name}: {resource.change} {resource.kind} {resource.name}\n", "bold")
        for line in resource.text.splitlines():
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
            text.append(line + "\n", style)
    if app.error:
        text.append(f"{app.name}: {app.error}\n", "red")
    return text


def show(json_output: bool, said: Said) -> None:
    """Print it, as `printed` does."""
    printed(json_output, said.content, *said.parts)


@contextlib.contextmanager
def before(json_output: bool, said: Said) -> Iterator[None]:
    """Say what was done before what is still to come of it.

    People read it immediately; a program gets one object, with the error in it if there is one.
    """
    if not json_output:
        show(False, said)
    try:
        yield
    except ReleaseError as error:
        error.done = said.content
        raise
    except BaseException:
        if json_output:
            show(True, said)
        raise
    if json_output:
        show(True, said)


def outcome(result: Outcome, dry_run: bool) -> Said:
    """What became of an operation."""
    plan = result.plan
    content = {
        "changed": bool(plan.edits) and (result.commit is not None or dry_run),
        "dry_run": dry_run,
        "commit": result.commit,
        "base": result.base,
        "attempts": result.attempts,
        "subject": plan.message.subject if plan.edits else None,
        "changes": [vars(row) for row in plan.rows],
        "files": sorted(plan.edits),
        "notes": plan.notes,
    }
    parts: list[Table | Text | str] = []
    if plan.rows:
        rows = [
            (row.release, row.kind, shortened(row.old) or "-", shortened(row.new) or "-")
            for row in plan.rows
        ]
        parts.append(table(("release", "what", "from", "to"), rows))
    parts += plan.notes
    if result.commit is not None:
        parts.append(f"Pushed {result.commit}: {plan.message.subject}")
    elif plan.edits and dry_run:
        parts.append(f"Dry run: would commit on {result.base[:12]}:\n\n{plan.message.text()}")
    else:
        parts.append("Nothing to change.")
    return Said(content, parts)


def offline(environment: str, done: Done, dry_run: bool) -> Said:
    """What a rollback without Git did."""
    content = {
        "environment": environment,
        "dry_run": dry_run,
        "commit": done.mark.commit,
        "mark": vars(done.mark),
        "releases": done.releases,
        "objects": done.objects,
        "deleted": done.deleted,
        "notes": done.notes,
    }
    names = ", ".join(done.releases)
    what = f"{environment} ({names}) to {done.mark.commit[:12]}: {done.objects} objects"
    gone = f"{'Would delete' if dry_run else 'Deleted'}: {', '.join(done.deleted)}."
    ended = (
        f"Dry run: would restore {what}."
        if dry_run
        else f"Restored {what}. Argo CD leaves them alone until `release reconcile --env "
        f"{environment}`, once Git is back."
    )
    return Said(content, [*done.notes, *([gone] if done.deleted else []), ended])


def written(path: Path | None, values: Mapping[str, str]) -> None:
    """Append ``name=value`` lines to a file, as a workflow's GITHUB_OUTPUT wants them."""
    if path is None:
        return
    with path.open("a") as file:
        for name, value in values.items():
            file.write(f"{name}={' '.join(value.split())}\n")


def shortened(reference: str) -> str:
    """A reference with seven digits of its digest."""
    head, mark, digest = reference.partition("@sha256:")
    return f"{head}{mark}{digest[:7]}" if mark else reference
