"""Runs so short that they run on the event loop's own thread."""

from __future__ import annotations

from inference.batching.estimates import DurationModel

SHORT_RUN = 0.001
"""Seconds of CPU up to which a run is expected to take on the loop's own thread."""
LONG_RUN = 0.01
"""Seconds of CPU from which a run on the loop's thread was a mistake."""
SHORT_BATCH = 256
"""Rows of a short run at most, where the model has no limit of its own."""
KNOWN_AFTER = 8
"""Runs after which it is known how long they take."""
RUNS_AFTER_MISTAKE = 10_000
"""Runs in threads until the loop's thread is tried again."""


class ShortRuns:
    """Learns which batches of a model are short enough."""

    def __init__(self, limit: float, *, max_rows: int) -> None:
        """``limit`` is in seconds of CPU, 0 for no short runs; a short run has ``max_rows``."""
        self.limit = limit
        self._max_rows = max_rows
        self._durations = DurationModel()
        self._known_runs = 0
        self._short_rows = 0

    def rows_for(self, needed: int) -> int:
        """How many rows a short run may have now; 0 where ``needed`` rows would not be short."""
        if self._known_runs < KNOWN_AFTER or self.limit == 0:
            return 0
        # more than twice as many as were ever seen to be short may be anything
        rows = min(self._max_rows, 2 * self._short_rows, self._durations.rows_within(self.limit))
        return rows if rows >= needed else 0

    def add(self, rows: int, cpu: float) -> None:
        """A run of ``rows`` rows took ``cpu`` seconds of CPU."""
        self._durations.add(rows, cpu)
        self._known_runs += 1
        if cpu <= self.limit:
            self._short_rows = max(self._short_rows, rows)
        elif rows <= self._short_rows:
            self._short_rows = rows // 2

    def check(self, cpu: float) -> None:
        """A run on the loop's thread took ``cpu`` seconds: use threads again if that is long."""
        if cpu > LONG_RUN:
            self._known_runs = KNOWN_AFTER - RUNS_AFTER_MISTAKE
