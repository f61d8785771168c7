"""An input that a model has answered: it tells a model that fails from inputs it fails on.

A run that fails is a fault of the server, which callers and the proxy's breaker take for a
server that is broken. Two inputs whose lengths do not go together fail as well, and are none: as
long as the model still answers what it has answered before, the inputs are at fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from kit.oip.non_finite import count_of
from kit.oip.tensors import Array

LARGEST = 16 << 20
"""Bytes of an input that is kept at most."""
LOOK_EVERY = 2.0
"""Seconds between two tries of the input that is kept."""


class KnownInput:
    """The first input that a model answered, and with numbers if it does that at all.

    Use it from any thread: two that try it together find the same.
    """

    def __init__(
        self, run: Callable[[dict[str, Array]], object], *, clock: Callable[[], float] | None = None
    ) -> None:
        """``run`` runs the model on named arrays and raises where that fails."""
        self._run = run
        self._clock = clock or time.monotonic
        self._feeds: dict[str, Array] | None = None
        self._tried: tuple[float, bool] | None = None
        self.finite = False
        """Whether its answer had no NaN and no infinity: then nothing better need be kept."""

    def note(self, feeds: Mapping[str, Array], outputs: list[Array]) -> None:
        """The model answered ``feeds`` with ``outputs``: keep a copy, unless it is too large."""
        finite = not any(map(count_of, outputs))
        if self._feeds is not None and not finite:
            return
        if sum(values.nbytes for values in feeds.values()) <= LARGEST:
            self._feeds = {name: np.array(values) for name, values in feeds.items()}
            self.finite = finite

    def still_runs(self) -> bool:
        """Whether the model still answers it; False where no input is known.

        It is tried every ``LOOK_EVERY`` seconds at most.
        """
        if self._feeds is None:
            return False
        now = self._clock()
        if self._tried is None or now - self._tried[0] >= LOOK_EVERY:
            try:
                self._run(self._feeds)
            except Exception:  # whatever it is, this input was answered before
                self._tried = now, False
            else:
                self._tried = now, True
        return self._tried[1]
