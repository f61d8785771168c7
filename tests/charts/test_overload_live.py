"""Above what a model server can do, breaker and server refuse at once and the rest is right.

How much is still served beside the capacity is measured by `make bench-routing`, not asserted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.charts.overload import BREAKER, TIMEOUT, capacity, limited, overload
from tests.charts.scratch import Scratch

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SECONDS = 5


@pytest.fixture
def able(scratch: Scratch, tmp_path: Path) -> Iterator[float]:
    """The capacity of a small model server, which has a breaker that fits it."""
    limited(scratch)
    scratch.routes({"inference": {"timeout": TIMEOUT}})
    capable = max(capacity(tmp_path, SECONDS).values())
    scratch.routes({"inference": {"circuitBreaking": BREAKER, "timeout": TIMEOUT}})
    yield capable
    scratch.release("inference")
    scratch.wait("inference")
    scratch.routes()


def test_overload_is_refused_by_the_breaker_and_the_rest_is_served_right(
    able: float, tmp_path: Path
) -> None:
    for times in (2, 10):
        seen = overload(tmp_path, int(times * able), SECONDS)
        print(f"{times} times {able:.0f}/s: {seen.good_per_second / able:.0%} served, {seen}")
        # What the breaker lets through may still be more rows than the server's own queue takes:
        # it says 429 then, with the time after which it has room.
        assert set(seen.statuses) - {429} == {200, 503}, seen
        assert seen.statuses[503] > seen.statuses.get(429, 0), "the server had to refuse the most"
        assert seen.unexplained == 0, "refused by somebody else than the breaker or the server"
        assert seen.wrong == 0
