"""Our model server beside its Python peers: `uv run python -m bench.inference`.

Every server gets the same .onnx files, the same options of ONNX Runtime, one worker and one CPU;
the load generator runs on another. Servers take turns within each round, so that what else the
machine does hits all of them alike; the table shows medians over the rounds and their spread.
Nothing here fails on a slow machine: the numbers are printed and stored, not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.inference.budget import Budget
from bench.inference.load import Outcome, attack, median
from bench.inference.models import CASES, Case, build
from bench.inference.peers.common import session_of
from bench.inference.servers import SERVERS, Process, Server, environments, interpreter

RESULTS = Path(__file__).parents[1] / "results"
CONCURRENCY = (1, 8, 32, 128)
OPEN_LOOP = (0.5, 0.8, 1.2)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement; times in milliseconds, CPU in seconds per 1,000 requests."""

    server: str
    case: str
    load: str
    per_second: float
    rows_per_second: float
    p50: float
    p99: float
    refused_p99: float
    not_2xx: float
    cpu_per_1000: float


@dataclass(frozen=True, slots=True)
class Start:
    """What a server costs before it does anything: seconds and MiB."""

    server: str
    seconds: float
    memory: float


def main() -> int:
    """Measure, print, store."""
    arguments = _arguments()
    work = environments() / "work"
    models = work / "models"
    build(models)
    cases = [case for case in CASES if not arguments.cases or case.name in arguments.cases]
    servers = _installed(arguments.servers)
    samples: list[Sample] = []
    starts: list[Start] = []
    peaks: dict[tuple[str, str], float] = defaultdict(float)
    floors = {case.name: _floor(models, case) for case in cases}
    running: list[Process] = []
    try:
        for server, python in servers:
            process = Process(
                server, python, models, port=_free_port(), cpu=arguments.server_cpu,
                log=work / f"{server.name}.log",
            )  # fmt: skip
            running.append(process)
            try:
                starts.append(_start(process, cases))
            except (RuntimeError, OSError) as error:
                print(f"{server.name}: {error}", file=sys.stderr)
                process.stop()
                running.remove(process)
                continue
            # They share a CPU, and some are never quite idle: who is not measured is frozen.
            process.send(signal.SIGSTOP)
        started = time.monotonic()
        closed, opened = len(CONCURRENCY) * arguments.rounds, len(OPEN_LOOP) * arguments.open_rounds
        budget = Budget(arguments.minutes * 60, (closed + opened) * len(cases) * len(running))
        for number in range(1, arguments.rounds + 1):
            for process in running:
                elapsed = time.monotonic() - started
                print(f"[{elapsed:5.0f} s] round {number} {process.server.name}", file=sys.stderr)
                process.send(signal.SIGCONT)
                for case in cases:
                    samples += _closed(process, case, arguments, work, peaks, budget=budget)
                    if number > arguments.rounds - arguments.open_rounds:
                        samples += _open(process, case, arguments, work, peaks, budget=budget)
                process.send(signal.SIGSTOP)
            store(samples, starts, floors, arguments, number)
    finally:
        for process in running:
            process.stop()
    print((arguments.results / "inference.md").read_text(encoding="utf-8"))
    return 0


def _start(process: Process, cases: list[Case]) -> Start:
    ready = process.wait_ready(cases[0])
    for case in cases:
        process.wait_ready(case)
    return Start(process.server.name, ready, process.memory_mib())


def store(
    samples: list[Sample],
    starts: list[Start],
    floors: dict[str, float],
    arguments: argparse.Namespace,
    rounds: int,
) -> None:
    """Write what there is so far, so that a run that is cut short is not lost."""
    arguments.results.mkdir(exist_ok=True)
    (arguments.results / "inference.md").write_text(
        render(samples, starts, floors, arguments, rounds), encoding="utf-8"
    )
    document = {
        "samples": [asdict(sample) for sample in samples],
        "starts": [asdict(start) for start in starts],
        "session_run_ms": floors,
    }
    (arguments.results / "inference.json").write_text(
        json.dumps(document, indent=1) + "\n", "utf-8"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.inference", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=21.0, help="of all measurements together")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--open-rounds", type=int, default=5, help="last rounds with an open loop")
    parser.add_argument("--servers", nargs="*", default=[], choices=list(SERVERS))
    parser.add_argument("--cases", nargs="*", default=[], choices=[case.name for case in CASES])
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    return parser.parse_args()


def _installed(names: list[str]) -> list[tuple[Server, Path]]:
    found = []
    for server in SERVERS.values():
        if names and server.name not in names:
            continue
        python = interpreter(server, Path(sys.executable))
        if python is not None:
            found.append((server, python))
    return found


def _closed(
    process: Process,
    case: Case,
    arguments: argparse.Namespace,
    work: Path,
    peaks: Any,
    *,
    budget: Budget,
) -> list[Sample]:
    samples = []
    for workers in CONCURRENCY:
        sample = _measure(
            process, case, arguments, work, f"closed {workers}", workers=workers, budget=budget
        )
        samples.append(sample)
        key = process.server.name, case.name
        peaks[key] = max(peaks[key], sample.per_second)
    return samples


def _open(
    process: Process,
    case: Case,
    arguments: argparse.Namespace,
    work: Path,
    peaks: Any,
    *,
    budget: Budget,
) -> list[Sample]:
    peak = peaks[process.server.name, case.name]
    return [
        _measure(
            process,
            case,
            arguments,
            work,
            f"open {share:.0%}",
            workers=64,
            rate=peak * share,
            budget=budget,
        )
        for share in OPEN_LOOP
        if peak * share >= 1
    ]


def _measure(
    process: Process,
    case: Case,
    arguments: argparse.Namespace,
    work: Path,
    load: str,
    *,
    workers: int,
    budget: Budget,
    rate: float = 0,
) -> Sample:
    seconds = budget.next()
    before, begun = process.cpu_seconds(), time.monotonic()
    outcome: Outcome = attack(
        process.url + process.server.path(case), process.server.body(case), work,
        cpu=arguments.load_cpu, seconds=seconds, workers=workers, rate=rate,
    )  # fmt: skip
    used = process.cpu_seconds() - before
    budget.spent(seconds, time.monotonic() - begun)
    total = len(outcome.answered) + len(outcome.refused)
    return Sample(
        process.server.name,
        case.name,
        load,
        outcome.per_second,
        outcome.per_second * case.rows,
        outcome.percentile(0.5),
        outcome.percentile(0.99),
        outcome.percentile(0.99, refused=True),
        len(outcome.refused) / max(total, 1),
        used / max(total, 1) * 1000,
    )


def _floor(models: Path, case: Case) -> float:
    """Milliseconds of a bare session.run."""
    session = session_of(models / case.model / "1" / "model.onnx")
    values = np.ones((case.rows, case.features), np.float32)
    times = []
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        begun = time.perf_counter()
        session.run(None, {"input": values})
        times.append((time.perf_counter() - begun) * 1000)
    return median(times)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def render(
    samples: list[Sample],
    starts: list[Start],
    floors: dict[str, float],
    arguments: argparse.Namespace,
    rounds: int,
) -> str:
    """The tables as Markdown."""
    load = os.getloadavg()
    lines = [
        "# The model server beside its peers",
        "",
        f"{rounds} rounds, {arguments.minutes:g} minutes in all, servers interleaved, one worker "
        "on one CPU, vegeta on another; medians, in brackets the lowest and highest of the rounds. "
        f"The load average of the {os.cpu_count()} CPUs was {load[0]:.1f} at the end "
        f"({load[2]:.1f} over the last 15 minutes).",
        "",
        "| server | start to first answer, s | memory, MiB |",
        "|---|---|---|",
    ]
    names = list(dict.fromkeys(start.server for start in starts))
    for name in names:
        own = [start for start in starts if start.server == name]
        lines.append(
            f"| {name} | {median([start.seconds for start in own]):.1f} "
            f"| {median([start.memory for start in own]):.0f} |"
        )
    grouped: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        grouped[sample.case, sample.load, sample.server].append(sample)
    lines += _summary(grouped, names)
    lines += _goals(grouped, names, floors)
    for case in dict.fromkeys(sample.case for sample in samples):
        lines += ["", f"## {case}", "", f"A bare `session.run` takes {floors[case]:.3f} ms."]
        for kind in ("closed", "open"):
            loads = list(
                dict.fromkeys(s.load for s in samples if s.case == case and s.load[:4] == kind[:4])
            )
            if not loads:
                continue
            lines += [
                "",
                "| load | server | requests/s | rows/s | p50 ms | p99 ms | CPU s per 1,000 "
                "| not 2xx | refused p99 ms |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for label in loads:
                for name in names:
                    lines += _row(label, name, grouped.get((case, label, name), []))
    return "\n".join(lines) + "\n"


def _summary(grouped: dict[tuple[str, str, str], list[Sample]], names: list[str]) -> list[str]:
    """Ours against the floor and the best peer, at 32 at once: by time and by CPU.

    By CPU is what a busy machine disturbs least: seconds that others took do not count.
    """
    if not {"slipway", "bare-asgi"} <= set(names):
        return []
    lines = [
        "",
        "## At 32 at once",
        "",
        "How many times the requests of the best peer, and what share of those of a bare ASGI "
        "handler: by requests per second, and by requests per CPU second.",
        "",
        "| model | best peer | times, time | times, CPU | of bare, time | of bare, CPU |",
        "|---|---|---|---|---|---|",
    ]
    peers = [name for name in names if name not in ("slipway", "bare-asgi")]
    for case in dict.fromkeys(key[0] for key in grouped):

        def rate(name: str, case: str = case) -> float:
            return median([s.per_second for s in grouped.get((case, "closed 32", name), [])])

        def cost(name: str, case: str = case) -> float:
            return median([s.cpu_per_1000 for s in grouped.get((case, "closed 32", name), [])])

        measured = [name for name in peers if rate(name)]
        if not measured or not rate("slipway") or not cost("slipway"):
            continue
        fastest = max(measured, key=rate)
        leanest = min(measured, key=cost)
        lines.append(
            f"| {case} | {fastest} (by CPU {leanest}) | {rate('slipway') / rate(fastest):.1f} "
            f"| {cost(leanest) / cost('slipway'):.1f} "
            f"| {rate('slipway') / rate('bare-asgi'):.0%} "
            f"| {cost('bare-asgi') / cost('slipway'):.0%} |"
        )
    return lines


def _goals(
    grouped: dict[tuple[str, str, str], list[Sample]], names: list[str], floors: dict[str, float]
) -> list[str]:
    """What is added at concurrency 1, the tail at half load, and how overload is borne."""

    def middle(field: str, case: str, load: str, name: str) -> float:
        return median([getattr(s, field) for s in grouped.get((case, load, name), [])])

    lines = [
        "",
        "## Alone, at half load, past the peak",
        "",
        "Added: median latency at concurrency 1 less a bare `session.run`, the client's own part "
        "included. Half load and 120 percent are shares of each server's own peak.",
        "",
        "| model | added, ms | added by bare ASGI, ms | p99 at half load, ms "
        "| best peer's p99, ms | goodput at 120 %, of peak | refused | refusals' p99, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    peers = [name for name in names if name not in ("slipway", "bare-asgi")]
    for case in dict.fromkeys(key[0] for key in grouped):
        if (case, "open 120%", "slipway") not in grouped:
            continue
        alone = {
            name: f"{middle('p50', case, 'closed 1', name) - floors[case]:.2f}"
            for name in ("slipway", "bare-asgi")
        }
        tails = {name: middle("p99", case, "open 50%", name) for name in peers}
        best = min((name for name in peers if tails[name]), key=tails.__getitem__, default="")
        peak = max(
            middle("per_second", case, f"closed {workers}", "slipway") for workers in CONCURRENCY
        )
        lines.append(
            f"| {case} | {alone['slipway']} | {alone['bare-asgi']} "
            f"| {middle('p99', case, 'open 50%', 'slipway'):.2f} "
            f"| {f'{tails[best]:.2f} ({best})' if best else '-'} "
            f"| {middle('per_second', case, 'open 120%', 'slipway') / max(peak, 1e-9):.0%} "
            f"| {middle('not_2xx', case, 'open 120%', 'slipway'):.1%} "
            f"| {middle('refused_p99', case, 'open 120%', 'slipway'):.1f} |"
        )
    return lines


def _row(label: str, name: str, own: list[Sample]) -> list[str]:
    if not own:
        return []

    def middle(field: str) -> float:
        return median([getattr(sample, field) for sample in own])

    rates = [sample.per_second for sample in own]
    refused = f"{middle('refused_p99'):.1f}" if middle("not_2xx") else "-"
    return [
        f"| {label} | {name} | {middle('per_second'):,.0f} "
        f"[{min(rates):,.0f}-{max(rates):,.0f}] | {middle('rows_per_second'):,.0f} "
        f"| {middle('p50'):.2f} | {middle('p99'):.2f} | {middle('cpu_per_1000'):.2f} "
        f"| {middle('not_2xx'):.1%} | {refused} |"
    ]


if __name__ == "__main__":
    sys.exit(main())
