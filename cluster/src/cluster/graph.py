"""Steps that wait for each other, run side by side where they need not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

Report = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A named piece of work; ``run`` returns a word on what it did (``started``, ``kept``)."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[], str]


def run(steps: Sequence[Step], report: Report, *, workers: int = 8) -> None:
    """Run every step after the steps it needs; ``report(name, seconds, word)`` after each.

    The first failure stops new steps from starting and is raised once those under way ended.
    Raises ValueError for a step that needs an unknown step, or for a circle.
    """
    check(steps)
    waiting = {step.name: step for step in steps}
    done: set[str] = set()
    running: dict[Future[tuple[str, float]], str] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(max_workers=workers) as pool:
        while waiting or running:
            if failure is None:
                for name in [n for n, s in waiting.items() if done.issuperset(s.needs)]:
                    running[pool.submit(_timed, waiting.pop(name).run)] = name
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                error = future.exception()
                if error is not None:
                    failure = failure or error
                    continue
                word, seconds = future.result()
                report(name, seconds, word)
                done.add(name)
    if failure is not None:
        raise failure


def check(steps: Sequence[Step]) -> None:
    """Raise ValueError where a step could never start."""
    names = [step.name for step in steps]
    for step in steps:
        if names.count(step.name) > 1:
            raise ValueError(f"step {step.name!r} is there twice")
        for need in step.needs:
            if need not in names:
                raise ValueError(f"step {step.name!r} needs {need!r}, which is no step")
    left = {step.name: set(step.needs) for step in steps}
    while free := [name for name, needs in left.items() if not needs]:
        for name in free:
            del left[name]
        for needs in left.values():
            needs.difference_update(free)
    if left:
        raise ValueError(f"steps {sorted(left)} wait for each other in a circle")


def _timed(work: Callable[[], str]) -> tuple[str, float]:
    begin = time.monotonic()
    return work(), time.monotonic() - begin
