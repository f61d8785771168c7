"""Numbers that are done, and the ranges they are stored as."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unzip.ledger.number_set import NumberSet


def test_ranges_are_half_open_and_joined() -> None:
    done = NumberSet([(0, 2), (5, 6)])
    assert [number in done for number in (0, 1, 2, 5, 6, -1, "0")] == [
        *(True, True, False),
        *(True, False, False, False),
    ]
    assert done.ranges() == [(0, 2), (5, 6)]
    for number in (4, 2, 3, 3):
        done.add(number)
    assert done.ranges() == [(0, 6)]
    assert (len(done), list(done)) == (6, [0, 1, 2, 3, 4, 5])
    assert NumberSet().ranges() == []


@given(st.sets(st.integers(0, 60)))
def test_what_is_stored_comes_back(numbers: set[int]) -> None:
    done = NumberSet()
    for number in numbers:
        done.add(number)
    again = NumberSet(done.ranges())
    assert set(done) == set(again) == numbers
    assert again.ranges() == done.ranges()
    ends = [edge for pair in done.ranges() for edge in pair]
    assert ends == sorted(set(ends))  # neighbours are one range
