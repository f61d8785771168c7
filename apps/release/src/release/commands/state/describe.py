"""`release describe`: what a thing is made of and where each part comes from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from release.cluster.client import Cluster
from release.commands import output
from release.commands.frame import now, opened
from release.commands.options import (
    ClusterOptions,
    JsonOption,
    ManifestOptions,
    ReadsOption,
    expanded,
)
from release.describe import digest, environment, model, pod, request, service
from release.describe.deployed import Known
from release.describe.facts import Description, Fact
from release.errors import ReleaseError
from release.records import verdicts

FEW = 20
"""Lines that speak of the thing which are printed without --all."""

app = typer.Typer(
    no_args_is_help=True,
    help="What a service, model, environment, digest, pod or request is made of, and where each "
    "part comes from: file and line, commit or object. What is not known is named.",
)
NameArgument = Annotated[str, typer.Argument(help="Its name.")]
AllOption = Annotated[
    bool, typer.Option("--all", help="Every line that speaks of it, not the first twenty.")
]
OneEnvOption = Annotated[
    str | None, typer.Option("--env", help="Look in this environment alone; else in all.")
]


@app.command("service")
@expanded
def service_command(
    *,
    name: NameArgument,
    every: AllOption = False,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """A service or a release of it: source, values, callers, and what each environment runs."""
    with _known(json_output, manifests) as known:
        _show(json_output, service.describe(known, name), every=every)


@app.command("model")
@expanded
def model_command(
    *,
    name: NameArgument,
    every: AllOption = False,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """A model: its versions, the releases that serve them, and who put them there."""
    with _known(json_output, manifests) as known:
        _show(json_output, model.describe(known, name), every=every)


@app.command("environment")
@expanded
def environment_command(
    *,
    name: NameArgument,
    every: AllOption = False,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """An environment: namespace, hosts, rules of promotion, holds, and its releases."""
    with _known(json_output, manifests) as known:
        _show(json_output, environment.describe(known, name), every=every)


@app.command("digest")
@expanded
def digest_command(
    *,
    name: Annotated[str, typer.Argument(help="The digest, or at least seven digits of it.")],
    every: AllOption = False,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """An image's digest: who is to run it, who runs it, and what it was built from."""
    with _known(json_output, manifests) as known:
        cluster, why_not = _cluster(in_cluster)
        found = digest.describe(known, name, cluster)
        if why_not:
            found.gaps.append(why_not)
        _show(json_output, found, every=every)


@app.command("pod")
@expanded
def pod_command(
    *,
    name: NameArgument,
    env: OneEnvOption = None,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """A pod: what runs in it, what Git wants of it, and what is wrong with it."""
    with _known(json_output, manifests) as known:
        environments = service.require(known.at, env)
        _show(json_output, pod.describe(known, name, environments, in_cluster.client()))


@app.command("request-id")
@expanded
def request_command(
    *,
    name: Annotated[str, typer.Argument(help="The X-Request-Id of an answer.")],
    env: OneEnvOption = None,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """A request: which containers logged it, and what these ran."""
    with _known(json_output, manifests) as known:
        environments = service.require(known.at, env)
        _show(json_output, request.describe(known, name, environments, in_cluster.client()))


@contextlib.contextmanager
def _known(json_output: bool, manifests: ManifestOptions) -> Iterator[Known]:
    with opened(json_output, manifests) as repo:
        at = repo.tree(repo.fetch())
        yield Known(at, verdicts.read(repo), now())


def _cluster(options: ClusterOptions) -> tuple[Cluster | None, str]:
    try:
        return options.client(), ""
    except ReleaseError as error:
        return None, error.message


def _show(json_output: bool, found: Description, *, every: bool = False) -> None:
    parts: list[Table | Text | str] = []
    for part in found.parts:
        if part.facts:
            parts.append(Text(part.title, "bold"))
            parts.append(_facts(part.facts))
    if found.mentions:
        files = {one.place.file for one in found.mentions}
        parts.append(Text(f"{len(found.mentions)} lines in {len(files)} files speak of it", "bold"))
        shown = found.mentions if every else found.mentions[:FEW]
        parts.append(_table([(str(one.place), one.text) for one in shown]))
        if len(shown) < len(found.mentions):
            parts.append(f"and {len(found.mentions) - len(shown)} more: --all prints them.")
    if found.gaps:
        parts.append(Text("not known, or missing", "bold"))
        parts += [f"- {gap}" for gap in dict.fromkeys(found.gaps)]
    output.printed(json_output, found.as_json(), *parts)


def _facts(facts: Sequence[Fact]) -> Table:
    return _table([(one.what, f"{one.value}  {one.where}".rstrip()) for one in facts])


def _table(rows: Sequence[tuple[str, str]]) -> Table:
    made = Table.grid(padding=(0, 2, 0, 0))
    for what, said in rows:
        made.add_row(Text(f"  {what}"), Text(said))
    return made
