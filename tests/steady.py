"""Run the tests again and again under what machines differ in, and tell which did not pass.

``python -m tests.steady`` is what ``make test-steady`` runs. The outcome of a test must not depend
on the machine: each mode changes one thing that a machine may bring, and every run must pass.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import randbelow

TESTS = Path(__file__).resolve().parent
LAST_LINE = re.compile(r"^=* ?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", re.MULTILINE)
COUNT = re.compile(r"(\d+) (passed|failed|errors?)")
NOT_PASSED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class Mode:
    """What is different about the machine or about the order."""

    name: str
    what: str
    options: tuple[str, ...] = ()
    busy: bool = False
    one_core: bool = False
    file_by_file: bool = False
    random_order: bool = False


PARALLEL = ("--numprocesses=auto", "--dist=loadfile")
SERIAL = ("--numprocesses=0",)
MODES = (
    Mode("idle", "nothing else runs", PARALLEL),
    Mode("busy", "a busy loop for each core runs beside it", PARALLEL, busy=True),
    Mode("one-core", "everything is bound to one core", SERIAL, one_core=True),
    Mode("alone", "each test file in a process of its own", SERIAL, file_by_file=True),
    Mode("random", "files, and tests within a file, in random order", PARALLEL, random_order=True),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one run of pytest."""

    mode: str
    run: str
    passed: int
    not_passed: tuple[str, ...]
    seconds: float

    def row(self) -> str:
        """A row of the Markdown table."""
        failed = "<br>".join(self.not_passed) or "-"
        return f"| {self.mode} | {self.run} | {self.passed} | {failed} | {self.seconds:.0f} |"


HEADER = "| mode | run | passed | not passed | seconds |\n|---|---|---|---|---|"


def read_outcome(mode: str, run: str, code: int, output: str, seconds: float) -> Outcome:
    """What pytest's output says; a run that ended badly without naming a test is named itself."""
    ends = LAST_LINE.findall(output)
    counts = {kind: int(number) for number, kind in COUNT.findall(ends[-1])} if ends else {}
    failed = tuple(dict.fromkeys(NOT_PASSED.findall(output)))
    if code not in {0, NOTHING_COLLECTED} and not failed:
        failed = (f"pytest ended with {code}",)
    return Outcome(mode, run, counts.get("passed", 0), failed, seconds)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """One busy loop per core while the block runs."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def command(mode: Mode, targets: Sequence[str], extra: Sequence[str], seed: int) -> list[str]:
    """The pytest command of a run in this mode."""
    words = [sys.executable, "-m", "pytest", "-m", "not e2e and not conformance", "-q", "-rfE"]
    if mode.one_core:
        words[:0] = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    if mode.random_order:
        words += ["--random-order", f"--random-order-seed={seed}"]
    return [*words, *mode.options, *extra, *targets]


def files_of(targets: Sequence[str]) -> list[str]:
    """Every test file of these files and folders."""
    found: list[str] = []
    for target in targets:
        path = Path(target)
        found += map(str, sorted(path.rglob("test_*.py"))) if path.is_dir() else [target]
    return found


def execute(mode: Mode, run: str, words: Sequence[str], folder: Path) -> Outcome:
    """Run pytest once and keep its output in a file."""
    began = time.monotonic()
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    seconds = time.monotonic() - began
    name = re.sub(r"[^\w.-]+", "_", f"{mode.name}-{run}")
    (folder / f"{name}.log").write_text(f"{' '.join(words)}\n\n{done.stdout}", encoding="utf-8")
    return read_outcome(mode.name, run, done.returncode, done.stdout, seconds)


def runs_of(
    mode: Mode, runs: int, targets: Sequence[str], extra: Sequence[str], seed: int
) -> Iterator[tuple[str, list[str]]]:
    """The name and the command of each run of a mode."""
    for number in range(1, runs + 1):
        if mode.file_by_file:
            for file in files_of(targets):
                yield f"{number} {file}", command(mode, [file], extra, seed)
        elif mode.random_order:
            of_run = seed + number - 1
            yield f"{number} seed {of_run}", command(mode, targets, extra, of_run)
        else:
            yield str(number), command(mode, targets, extra, seed)


def steady(arguments: argparse.Namespace) -> list[Outcome]:
    """All runs of all modes; each outcome is printed when it is there."""
    folder = Path(arguments.logs)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Seed {arguments.seed}; the output of each run is kept in {folder}.\n\n{HEADER}")
    outcomes: list[Outcome] = []
    for mode in (one for one in MODES if one.name in arguments.modes):
        plan = runs_of(mode, arguments.runs, arguments.targets, arguments.pytest, arguments.seed)
        with ExitStack() as stack:
            if mode.busy:
                stack.enter_context(busy_cores(len(os.sched_getaffinity(0))))
            for run, words in plan:
                outcomes.append(execute(mode, run, words, folder))
                print(outcomes[-1].row(), flush=True)
    return outcomes


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    names = [mode.name for mode in MODES]
    about = "\n".join(f"  {mode.name:9}{mode.what}" for mode in MODES)
    parser = argparse.ArgumentParser(
        prog="python -m tests.steady", description=f"{__doc__}\nmodes:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "targets", nargs="*", default=[str(TESTS)], help="files or folders of tests"
    )
    parser.add_argument("--modes", type=lambda text: text.split(","), default=names,
                        help="names with commas between, default: all")  # fmt: skip
    parser.add_argument("--runs", type=int, default=5, help="runs of each mode, default 5")
    parser.add_argument("--seed", type=int, default=randbelow(1_000_000),
                        help="of the first random order; the next run adds one")  # fmt: skip
    parser.add_argument("--logs", default=".steady", help="folder for the output of each run")
    parser.add_argument("--pytest", action="append", default=[], metavar="OPTION",
                        help="one for pytest, as --pytest=--numprocesses=2")  # fmt: skip
    found = parser.parse_intermixed_args(words)
    if unknown := sorted(set(found.modes) - set(names)):
        parser.error(f"--modes: {', '.join(unknown)} is none of {', '.join(names)}")
    return found


def main() -> int:
    """The number of runs that did not pass, as an exit code of 0 or 1."""
    arguments = parse()
    if "one-core" in arguments.modes and shutil.which("taskset") is None:
        sys.exit("The mode one-core needs the program taskset: install the package util-linux.")
    outcomes = steady(arguments)
    bad = [outcome for outcome in outcomes if outcome.not_passed]
    print(f"\n{len(outcomes) - len(bad)} of {len(outcomes)} runs passed.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
