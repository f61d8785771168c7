"""`release status`: what is wanted, what runs, what is wrong."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from release.commands import output
from release.commands.frame import now, opened
from release.commands.options import (
    ClusterOptions,
    EnvironmentsOption,
    JsonOption,
    ManifestOptions,
    PrometheusOption,
    ReadsOption,
    ServicesOption,
    expanded,
)
from release.diagnosis import explain
from release.errors import Exit
from release.live.traffic import IN_CLUSTER, Prometheus
from release.status import lines as status_lines
from release.status import table
from release.status.table import Line
from release.values import tree


@expanded
def status(
    *,
    env: EnvironmentsOption = None,
    service: ServicesOption = None,
    prometheus: PrometheusOption = IN_CLUSTER,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.5, help="Seconds between looks with --watch.")
    ] = 2.0,
    in_cluster: ClusterOptions,
    manifests: ManifestOptions,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """What is wanted, what runs, and what is wrong; exit code 6 when a release has failed.

    Traffic is that of the last five minutes where there is a Prometheus; else --service shows what
    the pods of a release have counted since they started.
    """
    with opened(json_output, manifests) as repo:
        cluster = in_cluster.client()

        def look() -> list[Line]:
            at = repo.tree(repo.fetch())
            environments = env or tree.environments(at)
            for environment in environments:
                tree.require_environment(at, environment)
            with ThreadPoolExecutor(len(environments) or 1) as pool:
                seen = list(
                    pool.map(
                        lambda name: cluster.observe(name, list(tree.releases(at, name))),
                        environments,
                    )
                )
            metrics = Prometheus(cluster, prometheus)
            found = metrics if metrics.found() else None
            return [
                replace(line, finding=explain.with_reasons(cluster, environment, line.finding))
                for environment, one in zip(environments, seen, strict=True)
                for line in status_lines.lines(
                    cluster, at, environment, one, now(), named=service or (), prometheus=found
                )
            ]

        found = look()
        if watch and not json_output:
            with Live(table.render(found, now()), console=Console()) as live:
                while True:
                    time.sleep(interval)
                    found = look()
                    notes = [Text(text) for text in table.explanations(found)]
                    live.update(Group(table.render(found, now()), *notes))
        output.printed(
            json_output,
            {"releases": [line.as_json() for line in found]},
            table.render(found, now()),
            *table.explanations(found),
        )
        if table.failing(found):
            raise typer.Exit(int(Exit.FAILED))
