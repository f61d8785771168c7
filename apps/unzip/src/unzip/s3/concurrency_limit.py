"""How many requests to S3 may be under way."""

from __future__ import annotations

import threading
import time

from unzip.s3.errors import SlowDown


class ConcurrencyLimit:
    """How many requests may be under way: halved by SlowDown, grown by success (AIMD).

    Shared by all threads of a process, so that one 503 slows all of them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._allowed = float(most)
        self._under_way = 0
        self._changed = threading.Condition()
        self._halved_at = 0.0

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < max(1, int(self._allowed)))
            self._under_way += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._under_way -= 1
            if isinstance(error[1], SlowDown):
                # One crowd of 503s is one piece of news.
                if time.monotonic() - self._halved_at > 0.5:
                    self._allowed = max(1.0, self._allowed / 2)
                    self._halved_at = time.monotonic()
            elif error[0] is None and self._allowed < self._most:
                self._allowed = min(self._most, self._allowed + 1 / self._allowed)
            self._changed.notify()

    @property
    def allowed(self) -> float:
        """Requests that may be under way now."""
        return self._allowed
