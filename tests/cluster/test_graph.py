"""Steps run after what they need, side by side where they may, and stop at the first failure."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.graph import Step, check, run


def test_every_step_runs_once_and_after_what_it_needs() -> None:
    order: list[str] = []

    def step(name: str, *needs: str) -> Step:
        return Step(name, needs, lambda: order.append(name) or "done")  # type: ignore[func-returns-value]

    run(
        [step("d", "b", "c"), step("b", "a"), step("c", "a"), step("a")],
        lambda name, seconds, word: None,
    )
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order[0] == "a"
    assert order[-1] == "d"


def test_independent_steps_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=90)

    def meet() -> str:
        both.wait()
        return "met"

    seen: list[str] = []
    run(
        [Step("left", (), meet), Step("right", (), meet)],
        lambda name, seconds, word: seen.append(word),
    )
    assert seen == ["met", "met"]


def test_a_failure_stops_what_waits_for_it_and_is_raised() -> None:
    ran: list[str] = []

    def fail() -> str:
        raise RuntimeError("broken")

    def late() -> str:
        ran.append("late")
        return ""

    with pytest.raises(RuntimeError, match="broken"):
        run([Step("a", (), fail), Step("b", ("a",), late)], lambda name, seconds, word: None)
    assert ran == []


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Step("a", ("b",), str)], "needs 'b', which is no step"),
        ([Step("a", (), str), Step("a", (), str)], "there twice"),
        ([Step("a", ("b",), str), Step("b", ("a",), str)], "in a circle"),
    ],
)
def test_a_graph_that_could_never_finish_is_refused(steps: list[Step], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(steps)


@given(
    st.integers(1, 12).flatmap(
        lambda count: st.lists(
            st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30
        ).map(lambda edges: (count, edges))
    )
)
def test_any_graph_whose_edges_point_back_runs_in_order(
    graph: tuple[int, list[tuple[int, int]]],
) -> None:
    count, edges = graph
    needs: dict[int, set[str]] = {number: set() for number in range(count)}
    for one, other in edges:
        if one != other:
            needs[max(one, other)].add(str(min(one, other)))
    order: list[str] = []
    lock = threading.Lock()

    def work(name: str) -> str:
        with lock:
            assert set(order) >= needs[int(name)]
            order.append(name)
        return ""

    run(
        [
            Step(str(number), tuple(needs[number]), lambda number=number: work(str(number)))
            for number in reversed(range(count))
        ],
        lambda name, seconds, word: None,
    )
    assert sorted(order, key=int) == [str(number) for number in range(count)]
