"""`release new service` and `release new environment`: they write into the checkout at hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from release.commands.frame import reported
from release.commands.options import DryRunOption, JsonOption
from release.create import environment, service
from release.create.service import Files

app = typer.Typer(no_args_is_help=True, help="Write the files of a new service or environment.")
RootOption = Annotated[
    Path, typer.Option("--root", help="Top of the checkout.", exists=True, file_okay=False)
]


@app.command("service")
def new_service(
    name: Annotated[str, typer.Argument(help="Its name, like fraud-scorer.")],
    *,
    path: Annotated[
        str, typer.Option("--path", help="Its prefix at the gateway; else /NAME.")
    ] = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Only in this environment; may be repeated.")
    ] = None,
    root: RootOption = Path(),
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write a service: package, tests, values, page, and a row in each environment.

    What it makes passes `make lint test validate`. After the commit reaches main it is built,
    deployed and reachable like every other one.
    """
    with reported(json_output):
        wanted = service.NewService(name, path, tuple(env or ()))
        files = service.planned(root, wanted)
        notes = []
        if not dry_run:
            service.write(root, files)
            notes = _locked(root)
        steps = [
            f"write what it does in apps/{name}/src/{wanted.module}/app.py",
            "make reference lint test validate",
            "git add --all, and commit: dev deploys it when it is on main",
        ]
        _say(files, notes, steps, dry_run=dry_run, json_output=json_output)


@app.command("environment")
def new_environment(
    name: Annotated[str, typer.Argument(help="Its name, like qa; its namespace as well.")],
    *,
    after: Annotated[
        str, typer.Option("--after", help="Environment whose versions are promoted into it.")
    ],
    like: Annotated[
        str, typer.Option("--like", help="Environment whose values it begins with; else --after.")
    ] = "",
    root: RootOption = Path(),
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write an environment: its values, ApplicationSet, project and place in the workflows.

    It begins with another environment's settings, with hosts, buckets and a database of Redis of
    its own, and with nothing deployed.
    """
    with reported(json_output):
        wanted = environment.NewEnvironment(name, after, like)
        files = environment.planned(root, wanted)
        if not dry_run:
            service.write(root, files)
        notes = [
            f"{path} has no list `options: [...]` of environments: add {name} to it by hand"
            for path in environment.WORKFLOWS
            if path not in files and (root / path).is_file()
        ]
        steps = [
            f"look at values/{name}: hosts, quota, buckets and replicas are like those of "
            f"{like or after}",
            f"make its buckets and its Secrets, and let its host lead to the gateway (on the one "
            f"machine `make up` does); on GitHub an environment {name} (docs/bootstrap.md)",
            "make validate, and commit",
            f"release promote --from {after} --to {name}",
        ]
        _say(files, notes, steps, dry_run=dry_run, json_output=json_output)


def _locked(root: Path) -> list[str]:
    """Bring uv.lock up to date; notes where that was not possible."""
    uv = shutil.which("uv")
    if uv is None:
        return ["uv is not installed, so uv.lock does not know the service yet: run `uv lock`."]
    done = subprocess.run([uv, "lock"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        return [f"uv.lock does not know the service yet ({reason[0]}): run `uv lock`."]
    return []


def _say(
    files: Files,
    notes: Sequence[str],
    steps: Sequence[str],
    *,
    dry_run: bool,
    json_output: bool,
) -> None:
    if json_output:
        document = {"written": not dry_run, "files": sorted(files), "notes": notes, "next": steps}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    sys.stdout.write("Would write:\n" if dry_run else "Wrote:\n")
    sys.stdout.writelines(f"  {path}\n" for path in sorted(files))
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write("Next:\n")
    sys.stdout.writelines(f"  {number}. {step}\n" for number, step in enumerate(steps, 1))
