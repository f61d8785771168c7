"""`release model add`: from a file to a model that an environment serves."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from release import service_programs
from release.changes import models, own_release, transaction
from release.checks import plan
from release.commands import output
from release.commands.frame import now, reported
from release.commands.options import (
    DryRunOption,
    EnvOption,
    JsonOption,
    ManifestOptions,
    SignOption,
    TimeoutOption,
    expanded,
)
from release.errors import BadReferenceError
from release.git.commit_tree import CommitTree
from release.values import references, tree

LONGEST_SHOWN = 2000
"""Characters of a sample that are shown in the command that asks the model."""


@expanded
def add(
    name: Annotated[str, typer.Argument(help="Name of the model, like iris.")],
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="An .onnx file, a folder with one, s3:// of a version's folder, or a model of "
            "MLflow: models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/PATH.",
        ),
    ],
    env: EnvOption = "dev",
    on: Annotated[
        str,
        typer.Option(
            "--on", help="Put it on this release, a model server that is there, beside its models."
        ),
    ] = "",
    of: Annotated[
        str, typer.Option("--of", help="Model server whose image and values its release shares.")
    ] = "inference",
    release: Annotated[
        str, typer.Option("--release", help="Name of its release; else the model's.")
    ] = "",
    version: Annotated[
        str, typer.Option("--version", help="Its version; else MLflow's, else 1.")
    ] = "",
    repository: Annotated[
        str,
        typer.Option(
            "--repository",
            help="Where it is published, s3://bucket or s3://bucket/prefix; else beside the "
            "environment's other models.",
        ),
    ] = "",
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Wait for the verdict afterwards.")
    ] = True,
    timeout: TimeoutOption = 300.0,
    manifests: ManifestOptions,
    sign: SignOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Try a model, publish it, and have a model server of an environment serve it.

    S3's address and credentials are those of the AWS SDKs' variables.
    """
    with reported(json_output), tempfile.TemporaryDirectory(prefix="release-model-") as scratch:
        read = _read_source(source, Path(scratch))
        version = version or read.version or "1"
        references.model(name, version, "s3://-/-", "0" * 64)
        with manifests.open() as repo:
            at = repo.tree(repo.fetch())
            tree.require_environment(at, env)
            server, is_new = _server(at, env, name, on, release)
            # What Git refuses is refused before it is published: a version stays in S3 for ever.
            if is_new:
                own_release.OwnRelease(env, server, of, references.Model(name), now())(at)
            elif server not in (known := tree.model_releases(at, env)):
                raise tree.unknown_service(server, known, env, "release with models")
            models.check_free(at, env, server, name=name, version=version)
            shared = [one.name for other, one in models.models_of(at, env) if other == server]
            place = repository.rstrip("/") or models.repository_of(at, env)
            described, published = _published(
                read, Path(scratch), name, version, place, dry_run=dry_run
            )
            model = references.model(name, version, published["uri"], published["sha256"])
            planner = (
                own_release.OwnRelease(env, server, of, model, now())
                if is_new
                else models.ModelAdd(env, server, model, now())
            )
            result = transaction.apply(repo, planner, dry_run=dry_run, sign=sign)
            command = ""
            if result.commit is not None:
                command = _asking(repo.tree(result.commit), env, name, described["sample"])
        _say(described, published, server, [one for one in shared if one != name], json_output)
        said = output.outcome(result, dry_run)
        if not json_output:
            output.show(json_output, said)
        verdict = None
        if verify and not dry_run:
            more = [f"--manifest-repo={manifests.manifest_repo}"] if manifests.manifest_repo else []
            more += [f"--commit={result.commit}"] if result.commit else []
            more += [f"--branch={manifests.branch}", f"--timeout={timeout}"]
            verdict = _verified(env, server, more, json_output)
        if json_output:
            content = {**said.content, "model": described | published, "ask": command}
            output.printed(json_output, content | {"verdict": verdict})
        elif command:
            output.printed(json_output, {}, f"Ask it:\n  {command}")
        if verdict:
            raise typer.Exit(verdict)


def _server(
    at: CommitTree, environment: str, model: str, on: str, release: str
) -> tuple[str, bool]:
    """The release that is to serve a model, and whether it is to be made.

    A model that a release of its own serves already stays there: the command may be run again.
    """
    if on and release:
        raise BadReferenceError(
            "--on names a release that is there, --release one that is to be made.",
            fix="pass one of them",
        )
    if on:
        return on, False
    wanted = release or own_release.release_name(model)
    serving = [server for server, one in models.models_of(at, environment)
               if one.name == model]  # fmt: skip
    return wanted, not (wanted in serving and own_release.is_own(at, environment, wanted))


@dataclass(frozen=True)
class _Source:
    """A model's files here; ``there`` is what is published already, ``version`` MLflow's."""

    source: str
    folder: Path
    there: dict[str, Any] | None = None
    version: str = ""


def _read_source(source: str, scratch: Path) -> _Source:
    """The model's files, from wherever they are.

    Raises BadReferenceError for a place that is not known, or in the words of the program that
    reads from it.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]*):", source)
    to = scratch / "source"
    if scheme is None:
        return _Source(source, Path(source))
    if scheme[1] == "s3":
        there = service_programs.ask(
            "inference", "fetch", f"--uri={source}", f"--to={to}", "--json"
        )
        return _Source(source, Path(there["folder"]), there)
    if scheme[1] in ("models", "runs"):
        found = service_programs.ask("trainer", "fetch", f"--from={source}", f"--to={to}", "--json")
        for note in found["notes"]:
            output.warned(f"{source}: {note}")
        return _Source(source, Path(found["folder"]), None, found["version"])
    raise BadReferenceError(
        f"Models cannot be read from {scheme[1]}:.",
        fix="download the model and name its file or folder; s3://, models:/ and runs:/ are read",
    )


def _published(
    read: _Source, scratch: Path, name: str, version: str, repository: str, *, dry_run: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the server makes of the model, and where it is published (or would be)."""
    described = service_programs.ask(
        "inference", "describe", str(read.folder), f"--name={name}", f"--version={version}",
        f"--to={scratch / 'made'}", "--json",
    )  # fmt: skip
    uri = f"{repository}/{name}/{version}"
    if read.there is not None and read.source.rstrip("/") == uri:
        return described, {"uri": uri, "sha256": read.there["sha256"], "created": False}
    published = service_programs.ask(
        "trainer", "publish", f"--from={described['folder']}", f"--repository={repository}",
        "--min-accuracy=0", "--json", *(["--dry-run"] if dry_run else []),
    )  # fmt: skip
    return described, published


def _say(
    described: dict[str, Any],
    published: dict[str, Any],
    on: str,
    shared: list[str],
    json_output: bool,
) -> None:
    """For people: the verdict on batching, warnings, and what models of one server share."""
    if json_output:
        return
    batching = described["batching"]
    lines = [
        f"{described['name']} {described['version']} loads: "
        f"{'batched' if batching['enabled'] else 'not batched'}, {batching['reason']}.",
        *(f"  warning: {warning}" for warning in described["warnings"]),
        f"{'Published' if published['created'] else 'Published before'}: {published['uri']}, "
        f"sha256 {published['sha256'][:12]}… of model.json",
    ]
    if shared:
        lines.append(
            f"It shares the pods of {on} with {', '.join(shared)}: a new version of one restarts "
            "all, and they are rolled back, judged and split among variants together."
        )
    output.printed(json_output, {}, *lines)


def _asking(at: CommitTree, environment: str, name: str, sample: object) -> str:
    """The command that asks the model at the gateway; empty where no proxy serves it there."""
    found = plan.read(at, environment)
    for question in found.questions:
        if isinstance(question, plan.OfModel) and question.model == name:
            if not isinstance(question.ask, plan.AtGateway):
                continue
            base = found.gateway.replace("{host}", question.ask.host)
            body = json.dumps(sample) if sample else ""
            if not body or len(body) > LONGEST_SHOWN:
                return f"curl -s {base}{question.ask.path.removesuffix('/infer')}"
            return f"curl -s {base}{question.ask.path} -d {shlex.quote(body)}"
    return ""


def _verified(environment: str, release: str, more: list[str], json_output: bool) -> int:
    """The exit code of `release verify` on the release, which says why."""
    program = "from release.cli import main; main()"
    command = [sys.executable, "-c", program, "verify", f"--env={environment}"]
    command += [f"--service={release}", *more]
    done = subprocess.run(
        command, check=False, stdout=subprocess.DEVNULL if json_output else None, env=os.environ
    )
    return done.returncode
