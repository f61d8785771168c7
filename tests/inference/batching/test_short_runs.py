"""inference.batching.short_runs: each bound, one step on either side of it."""

from __future__ import annotations

import pytest

from inference.batching.short_runs import KNOWN_AFTER, LONG_RUN, RUNS_AFTER_MISTAKE, ShortRuns

LIMIT = 0.001


def learned(runs: int, *, rows: int = 1, cpu: float = LIMIT / 100, max_rows: int = 64) -> ShortRuns:
    """What is known after so many runs of ``rows`` rows."""
    short = ShortRuns(LIMIT, max_rows=max_rows)
    for _ in range(runs):
        short.add(rows, cpu)
    return short


@pytest.mark.parametrize(("runs", "known"), [(KNOWN_AFTER - 1, False), (KNOWN_AFTER, True)])
def test_runs_are_known_after_a_few(runs: int, known: bool) -> None:
    assert bool(learned(runs).rows_for(1)) is known


@pytest.mark.parametrize(
    ("rows", "needed", "expected"), [(4, 8, 8), (4, 9, 0), (32, 64, 64), (33, 64, 64), (33, 65, 0)]
)
def test_a_short_run_has_twice_the_rows_that_were_seen_and_never_more_than_the_most(
    rows: int, needed: int, expected: int
) -> None:
    assert learned(KNOWN_AFTER, rows=rows).rows_for(needed) == expected


def test_a_size_that_was_long_once_is_halved() -> None:
    runs = learned(KNOWN_AFTER, rows=8)
    runs.add(8, 2 * LIMIT)
    for _ in range(1000):
        runs.add(1, LIMIT / 100)
    assert runs.rows_for(8) == 8, "twice the four rows that are left"
    assert runs.rows_for(9) == 0


@pytest.mark.parametrize(("cpu", "mistake"), [(LONG_RUN, False), (LONG_RUN * 1.01, True)])
def test_after_a_long_run_threads_run_for_a_long_time(cpu: float, mistake: bool) -> None:
    runs = learned(KNOWN_AFTER)
    runs.check(cpu)
    assert bool(runs.rows_for(1)) is not mistake
    for _ in range(RUNS_AFTER_MISTAKE - 1):
        runs.add(1, LIMIT / 100)
    assert bool(runs.rows_for(1)) is not mistake
    runs.add(1, LIMIT / 100)
    assert runs.rows_for(1)


def test_without_a_limit_no_run_is_short() -> None:
    runs = ShortRuns(0.0, max_rows=64)
    for _ in range(KNOWN_AFTER):
        runs.add(1, 0.0)
    assert runs.rows_for(1) == 0
