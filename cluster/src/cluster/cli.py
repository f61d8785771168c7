"""The `cluster` command: Kubernetes, Argo CD and Istio on one machine."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster import build as builds
from cluster import elsewhere, graph, layout, optional, preflight, status, teardown
from cluster import up as boot
from cluster.errors import ClusterError
from cluster.kube import Kubectl
from cluster.process import Supervisor

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _where() -> layout.Layout:
    return layout.default_layout()


def _supervisor(where: layout.Layout) -> Supervisor:
    return Supervisor(where.run, where.logs)


class _Progress:
    """One line per event, each with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def line(self, text: str) -> None:
        """Print a line."""
        typer.echo(f"[{time.monotonic() - self._begin:6.1f} s] {text}")

    def step(self, name: str, seconds: float, word: str) -> None:
        """Print a step that is done; steps that found nothing to do stay silent."""
        if word not in ("kept", "written", "left as it is"):
            self.line(f"{name} {word} ({seconds:.1f} s)")


ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster",
        envvar="CLUSTER",
        help="machine: boot one here; kind; current: whatever kubectl points at.",
    ),
]


def _kind(name: str) -> elsewhere.Kind:
    for known in elsewhere.KINDS:
        if name == known:
            return known
    raise ClusterError(
        f"CLUSTER is {name!r}", fix=f"set it to one of: {', '.join(elsewhere.KINDS)}"
    )


@app.command()
def up(cluster: ClusterOption = "machine") -> None:
    """Bring the cluster up, or repair what is missing of a running one."""
    where, progress, kind = _where(), _Progress(), _kind(cluster)
    supervisor = _supervisor(where)
    if kind != "machine":
        _up_elsewhere(where, supervisor, kind, progress)
        return
    boot.check_machine(where, supervisor, progress.line)
    built = boot.prepare(where, progress.line)
    boot.recover(where, supervisor)
    graph.run(boot.steps(where, supervisor, built, progress.line), progress.step)
    progress.line(f"the cluster is up; KUBECONFIG={where.kubeconfig}")


def _up_elsewhere(
    where: layout.Layout, supervisor: Supervisor, kind: elsewhere.Kind, progress: _Progress
) -> None:
    elsewhere.check_programs(kind)
    if kind == "kind":
        clusters = elsewhere.output("kind", "get", "clusters")
        containers = elsewhere.output("docker", "ps", "--all", "--format={{.Names}}")
        elsewhere.run(elsewhere.kind_up(clusters, containers), progress.line)
    program, helm = elsewhere.programs(where, progress.line)
    kubectl = Kubectl(program, None)
    shared = builds.ensure_shared(where)
    graph.run(elsewhere.steps(where, kind, kubectl, helm, shared), progress.step)
    if kind == "kind":
        url = elsewhere.ensure_repo(where, supervisor, elsewhere.kind_gateway_address())
        progress.line(f"the manifest repo is served at {url}")
    else:
        for daemon in elsewhere.forwards(kubectl):
            # What answers there already is the cluster's own way in, or a forward of before.
            if daemon.ready():
                supervisor.ensure(daemon)
    progress.line(f"the add-ons are up on {kubectl.run('config', 'current-context').strip()}")


@app.command()
def addon(
    names: Annotated[
        list[str], typer.Argument(help=f"Which: {', '.join(optional.NAMES)}.", show_default=False)
    ],
    cluster: ClusterOption = "machine",
) -> None:
    """Bring add-ons that `up` leaves out: building KEDA takes minutes."""
    where, progress, kind = _where(), _Progress(), _kind(cluster)
    for name in names:
        if name not in optional.NAMES:
            raise ClusterError(
                f"no add-on is named {name!r}", fix=f"name one of: {', '.join(optional.NAMES)}"
            )
    if kind == "machine":
        kubectl = Kubectl(where.program("kubectl"), where.kubeconfig)
    else:
        kubectl = Kubectl(elsewhere.programs(where, progress.line)[0], None)
    optional.check_answers(kubectl)
    for name in names:
        if kind == "machine":
            optional.ensure(where, kubectl, name, progress.line)
        elif not kubectl.get(optional.EVIDENCE[name]):
            # Their makers' charts are right where images can be pulled.
            raise ClusterError(
                f"{name} is not installed on {kind!r}",
                fix=f"kubectl apply -f argocd/platform/project.yaml -f argocd/platform/{name}.yaml",
            )
    progress.line(f"the add-ons are up: {', '.join(names)}")


@app.command()
def down(
    cluster: ClusterOption = "machine",
    purge: Annotated[
        bool, typer.Option(help="Forget the cluster's state too, but keep programs and images.")
    ] = False,
) -> None:
    """Stop everything and leave nothing of it in the machine."""
    where, kind = _where(), _kind(cluster)
    if kind != "machine":
        supervisor = _supervisor(where)
        for name in supervisor.names():
            supervisor.stop(name)
        if kind == "kind":
            elsewhere.run(elsewhere.kind_down(), typer.echo)
        else:
            typer.echo("what was installed into your cluster stays there; see docs/operations.md")
        return
    if os.geteuid() != 0:
        raise ClusterError("taking the cluster down needs root", fix="run it with sudo -E")
    teardown.down(where, _supervisor(where))
    if purge:
        for folder in where.state.glob("*"):
            # The registry holds images that took minutes to make.
            if folder.name in ("registry", "logs"):
                continue
            if folder.is_dir():
                shutil.rmtree(folder)
            else:
                folder.unlink()
    typer.echo("the cluster is down")


@app.command("status")
def show_status(as_json: JsonOption = False) -> None:
    """Show what runs. Exit code 1 when a part is not running."""
    where = _where()
    found = status.daemon_states(where, _supervisor(where))
    pods = status.pod_memory()
    total = sum(part.memory for part in found) + pods
    if as_json:
        document = {
            "parts": [asdict(part) for part in found],
            "pods_memory_mib": round(pods, 1),
            "memory_mib": round(total, 1),
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        table = Table("part", "state", "process", "MiB", "why")
        for part in found:
            table.add_row(
                part.name,
                part.state,
                str(part.process_id or ""),
                f"{part.memory:.0f}" if part.process_id else "",
                part.reason,
            )
        table.add_row("pods", "", "", f"{pods:.0f}", "")
        table.add_row("all", "", "", f"{total:.0f}", "")
        Console().print(table)
    if any(part.state != "running" for part in found):
        raise typer.Exit(1)


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help="A part, as `cluster status` names it.")],
) -> None:
    """Print the log of a part."""
    where = _where()
    log = _supervisor(where).log(part)
    if not log.is_file():
        known = ", ".join(sorted(path.stem for path in where.logs.glob("*.log"))) or "none"
        raise ClusterError(f"no part named {part!r} has a log", fix=f"name one of: {known}")
    with log.open("rb") as content:
        shutil.copyfileobj(content, sys.stdout.buffer)


@app.command()
def build(
    for_tests: Annotated[
        bool, typer.Option(help="Only the programs that tests without a cluster drive.")
    ] = False,
) -> None:
    """Build the programs the cache lacks."""
    where, progress = _where(), _Progress()
    if for_tests:
        _packages_for_tests(where, progress)
        builds.ensure_python_checker(where)
    wanted = builds.FOR_TESTS if for_tests else builds.ALL
    builds.ensure(where, wanted, progress.line)
    # The custom resource definitions and charts are read by tests, too.
    builds.ensure_shared(where)
    progress.line(f"{len(wanted)} programs are in {_where().bin}")


def _packages_for_tests(where: layout.Layout, progress: _Progress) -> None:
    missing = preflight.missing_packages_for_tests()
    if not boot.install_missing(where, missing, progress.line):
        names = " ".join(missing)
        progress.line(f"tests that need these Debian packages will be skipped: {names}")


@app.command()
def trim() -> None:
    """Drop old builds and Go's caches; the programs in use stay."""
    for name in builds.trim(_where()):
        typer.echo(f"dropped {name}")


@app.command()
def kubeconfig() -> None:
    """Print the path of the kubeconfig."""
    path = _where().kubeconfig
    if not path.is_file():
        raise ClusterError(f"there is no kubeconfig at {path}", fix="run `make up`")
    typer.echo(path)


def main() -> None:
    """Run the command; a failure is reported on standard error and ends with exit code 1."""
    try:
        app()
    except ClusterError as error:
        typer.echo(f"error: {error.report()}", err=True)
        sys.exit(1)
