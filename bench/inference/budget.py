"""How long each measurement may take, so that the whole run ends when it was said to."""

from __future__ import annotations

SHORTEST = 0.5
"""Seconds below which a measurement says nothing."""


class Budget:
    """Shares the time that is left among the measurements that are left."""

    def __init__(self, seconds: float, measurements: int) -> None:
        self._left = seconds
        self._measurements = measurements
        self._overhead = 0.3
        """Seconds that a measurement takes longer than it was asked to, as seen so far."""

    def next(self) -> float:
        """Seconds for the next measurement."""
        share = self._left / max(1, self._measurements)
        return max(SHORTEST, share - self._overhead)

    def spent(self, asked: float, took: float) -> None:
        """A measurement that was to take ``asked`` seconds took ``took``."""
        self._left -= took
        self._measurements -= 1
        self._overhead += 0.1 * (took - asked - self._overhead)
