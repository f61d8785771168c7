"""How long a model's runs took so far, and how fast rows come."""

from __future__ import annotations

import math

DECAY = 0.98
"""Weight of the past at each new run: about the last fifty count."""


class DurationModel:
    """Learns ``seconds = base + per_row * rows`` by weighted least squares."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._rows = 0.0
        self._rows2 = 0.0
        self._seconds = 0.0
        self._both = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """One run of ``rows`` rows took ``seconds``."""
        self._weight = self._weight * DECAY + 1
        self._rows = self._rows * DECAY + rows
        self._rows2 = self._rows2 * DECAY + rows * rows
        self._seconds = self._seconds * DECAY + seconds
        self._both = self._both * DECAY + rows * seconds

    @property
    def per_row(self) -> float:
        """Seconds per row; 0 until runs of different sizes were seen."""
        spread = self._weight * self._rows2 - self._rows * self._rows
        if spread <= 1e-9 * max(1.0, self._rows2):
            return 0.0
        slope = (self._weight * self._both - self._rows * self._seconds) / spread
        return max(0.0, slope)

    @property
    def base(self) -> float:
        """Seconds of a run whatever its size."""
        if self._weight == 0:
            return 0.0
        return max(0.0, (self._seconds - self.per_row * self._rows) / self._weight)

    def rows_within(self, seconds: float) -> int:
        """How many rows a run of so many seconds takes."""
        left = seconds - self.base
        if left <= 0:
            return 0
        per_row = self.per_row
        return int(min(left / per_row, 1e9)) if per_row > 0 else 1_000_000_000

    def predict(self, rows: int, batch: int) -> float:
        """Seconds until ``rows`` rows are run in batches of ``batch``."""
        return rows * self.per_row + math.ceil(rows / batch) * self.base


class RateModel:
    """Rows per second, over about the last second."""

    def __init__(self) -> None:
        self._per_second = 0.0
        self._since = 0.0
        self._rows = 0

    def add(self, rows: int, now: float) -> None:
        """``rows`` more at ``now`` (seconds, monotonic)."""
        self._rows += rows
        passed = now - self._since
        if passed >= 0.1:
            keep = math.exp(-passed)
            self._per_second = self._per_second * keep + (self._rows / passed) * (1 - keep)
            self._since = now
            self._rows = 0

    @property
    def per_second(self) -> float:
        """Rows per second."""
        return self._per_second


def worth_waiting(rows: int, rows_per_second: float, base: float) -> float:
    """Seconds a batch of ``rows`` should wait for more, given a run's fixed cost ``base``.

    Waiting ``t`` costs the rows that are here ``rows * t`` seconds; each row that comes in
    time saves the run of its own it would otherwise need, ``base`` seconds. With rows coming
    every ``1 / rows_per_second`` seconds the next one is worth it while
    ``rows / rows_per_second < base``; then the wait that gathers until that balance is met is
    ``base - rows / rows_per_second``.
    """
    if rows_per_second <= 0:
        return 0.0
    return max(0.0, base - rows / rows_per_second)
