"""Servers past their peak: `make bench-overload`. Ours and every peer under the same load.

Latency counts from the schedule, every connection is opened before, the first second of a window
does not count, and the table has the generator's own share of its core: where that is full, the
figure is the generator's. Only 127.0.0.1 is asked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import packages
from bench.inference.__main__ import _free_port, _installed, _start
from bench.inference.models import CASES, build
from bench.inference.servers import Process, environments
from bench.overload.generator import LOADS, Load, attack
from bench.proxy import programs
from bench.proxy.__main__ import servers as proxies
from bench.proxy.load import body_of
from bench.proxy.servers import KEY, PATH, run_only

RESULTS = Path(__file__).parents[1] / "results"
STORED_PEAKS = {"slipway mlp-1": 14_417.0, "ours": 13_923.0}
"""Answers per second of revision 6a68001 on the reference machine, by the same generator."""
BEFORE = Load(128)


@dataclass(frozen=True, slots=True)
class Target:
    """A server to ask, and how it is made the only one that runs."""

    name: str
    url: str
    path: str
    body: Path
    run: Callable[[], None]
    cpu_seconds: Callable[[], float]
    header: str = ""


Row = dict[str, float]
Rows = dict[tuple[str, str], list[Row]]


def main() -> None:
    """Measure, print, store."""
    given = _arguments()
    rows: Rows = {}
    peaks: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-overload-")))
        folder.chmod(0o755)
        targets: list[Target] = []
        if given.what in ("inference", "both"):
            targets += stack.enter_context(_inference(folder, given.servers, given.cases))
        if given.what in ("proxy", "both"):
            targets += _proxy(stack, folder, given.servers)
        for target in targets:
            target.run()
            peak = max(_window(target, BEFORE, given, 0)["answers_per_second"] for _ in range(2))
            stored = STORED_PEAKS.get(target.name, 0.0) if given.stored_peaks else 0.0
            peaks[target.name] = max(peak, stored)
        for number in range(given.rounds):
            for load in LOADS:
                for target in targets:
                    target.run()
                    row = _window(target, load, given, peaks[target.name])
                    rows.setdefault((load.name, target.name), []).append(row)
                    print(f"round {number + 1} {load.name} {target.name}: {row}", file=sys.stderr)
    text = render(rows, peaks, given)
    print(text)
    given.results.mkdir(exist_ok=True)
    (given.results / "overload.md").write_text(text, encoding="utf-8")
    document = {
        "peaks": peaks,
        "rows": [
            {"load": key[0], "server": key[1], "rounds": found} for key, found in rows.items()
        ],
    }
    (given.results / "overload.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _window(target: Target, load: Load, given: argparse.Namespace, peak: float) -> Row:
    if load.after:
        _attack(target, Load(load.connections, load.after), given, peak)
    before = target.cpu_seconds()
    row = _attack(target, load, given, peak)
    asked = (row["answers_per_second"] + row["refused_per_second"]) * (given.seconds + 1)
    used = target.cpu_seconds() - before
    return row | {"server_cpu_ms_per_request": used * 1000 / max(1.0, asked)}


def _attack(target: Target, load: Load, given: argparse.Namespace, peak: float) -> Row:
    return attack(
        target.url, target.path, target.body, load,
        cpu=1, seconds=given.seconds + 1, skip=1, peak=peak, header=target.header,
    )  # fmt: skip


@contextlib.contextmanager
def _inference(folder: Path, names: list[str], cases: list[str]) -> Iterator[list[Target]]:
    models = environments() / "work" / "models"
    build(models)
    chosen = [case for case in CASES if case.name in cases]
    running: list[Process] = []

    def only(wanted: Process) -> None:
        for process in running:
            process.send(signal.SIGCONT if process is wanted else signal.SIGSTOP)

    targets = []
    try:
        for server, python in _installed(names):
            process = Process(
                server, python, models, port=_free_port(), cpu=0,
                log=folder / f"{server.name}.log",
            )  # fmt: skip
            running.append(process)
            try:
                _start(process, chosen)
            except (RuntimeError, OSError) as error:
                print(f"{server.name}: {error}", file=sys.stderr)
                continue
            for case in chosen:
                body = folder / f"{server.name}-{case.name}.json"
                body.write_bytes(server.body(case))
                targets.append(
                    Target(
                        f"{server.name} {case.name}", process.url, server.path(case), body,
                        lambda process=process: only(process), process.cpu_seconds,
                    )
                )  # fmt: skip
        yield targets
    finally:
        for process in running:
            process.send(signal.SIGCONT)
            process.stop()


def _proxy(stack: contextlib.ExitStack, folder: Path, names: list[str]) -> list[Target]:
    packages.ensure(programs.PACKAGES)
    there, _ = proxies(stack, folder, set(names))
    stack.callback(run_only, None, there.values())
    for server in there.values():  # as soon as one is measured the others are frozen
        server.pids()
    body = folder / "proxy.json"
    body.write_text(body_of(1000))
    return [
        Target(
            name, server.url, PATH, body, lambda server=server: run_only(server, there.values()),
            server.cpu_seconds, header=f"Authorization: Bearer {KEY}",
        )
        for name, server in there.items()
        if server.process is not None
    ]  # fmt: skip


def render(rows: Rows, peaks: dict[str, float], given: argparse.Namespace) -> str:
    """The table as Markdown: medians over the rounds."""
    lines = [
        "# Past the peak",
        "",
        f"{given.rounds} rounds of {given.seconds:g} s after one second that does not count, "
        "servers interleaved; one core for the server, the other for the generator. Answers are "
        "those that came within a second of their schedule, in the window; times count "
        "from the schedule. A load `after 200%` begins when that one ends. A peak is the better of "
        "two windows with 128 connections"
        + (", or the stored one, where that is higher" if given.stored_peaks else "")
        + f". Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        "",
        "| load | server | answers/s | of peak | answers p50 / p99 ms | refused/s "
        "| refusals p50 / p99 ms | failed/s | server CPU ms per request | generator's core |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (load, name), found in rows.items():

        def median(key: str, found: list[Row] = found) -> float:
            return statistics.median(row[key] for row in found)

        answers = median("answers_per_second")
        lines.append(
            f"| {load} | {name} | {answers:,.0f} | {answers / max(1.0, peaks[name]):.0%} "
            f"| {median('answer_p50_ms'):.1f} / {median('answer_p99_ms'):.1f} "
            f"| {median('refused_per_second'):,.0f} "
            f"| {median('refused_p50_ms'):.1f} / {median('refused_p99_ms'):.1f} "
            f"| {median('failed_per_second'):,.0f} | {median('server_cpu_ms_per_request'):.3f} "
            f"| {median('generator_cpu'):.0%} |"
        )
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.overload", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["inference", "proxy", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--servers", nargs="*", default=[])
    parser.add_argument("--cases", nargs="*", default=["mlp-1"])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the table")
    parser.add_argument(
        "--stored-peaks", action="store_true",
        help="measure against the peaks of the reference machine, where they are higher",
    )  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
