"""Work side by side, bounded in number and bytes; the first error stops the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Budget:
    """Bytes that may be held together. One request larger than all of it is let in alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may be held."""
        with self._changed:
            self._changed.wait_for(lambda: self._held + count <= self._most or self._held == 0)
            self._held += count

    def offer(self, count: int) -> bool:
        """Hold ``count`` more bytes if there is room for them now."""
        with self._changed:
            fits = self._held + count <= self._most
            self._held += count if fits else 0
        return fits

    def give(self, count: int) -> None:
        """``count`` bytes are held no longer."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()


class Cancelled(Exception):  # noqa: N818 - not an error of anybody
    """The call that these belonged to is over."""


class CallGroup:
    """Calls on a shared pool that belong together.

    ``submit`` blocks while ``most`` calls wait. The bytes a call holds are reserved from
    ``budget`` before they are made. ``finish`` waits for all calls. After the first error, calls
    that have not begun are skipped and both methods raise it.
    """

    def __init__(self, pool: ThreadPoolExecutor, most: int, budget: Budget | None = None) -> None:
        self._pool = pool
        self._places = threading.Semaphore(most)
        self._budget = budget
        self._changed = threading.Condition()
        self._open = 0
        self._reserved = 0  # bytes of the budget that no call holds yet
        self.error: BaseException | None = None

    def reserve(self, count: int) -> None:
        """Wait until ``count`` bytes may be made; whoever waits must hold none of the budget."""
        if self._budget is not None:
            self._budget.take(count)
            with self._changed:
                self._reserved += count

    def try_reserve(self, count: int) -> bool:
        """Reserve ``count`` bytes if there is room for them now."""
        if self._budget is None:
            return True
        fits = self._budget.offer(count)
        with self._changed:
            self._reserved += count if fits else 0
        return fits

    def submit(self, call: Callable[[], object], *, holding: int = 0) -> None:
        """Have ``call`` made, which holds ``holding`` reserved bytes until it returns."""
        self._places.acquire()
        with self._changed:
            self._open += 1
            self._reserved -= holding
        if self.error is not None:
            self._close(holding, None)
            raise self.error
        try:
            self._pool.submit(self._run, call, holding)
        except BaseException:
            self._close(holding, None)
            raise

    def _run(self, call: Callable[[], object], holding: int) -> None:
        error: BaseException | None = None
        if self.error is None:
            try:
                call()
            except BaseException as caught:  # handed to whoever waits
                error = caught
        self._close(holding, error)

    def _close(self, holding: int, error: BaseException | None) -> None:
        if self._budget is not None:
            self._budget.give(holding)
        with self._changed:
            self._open -= 1
            if error is not None and self.error is None:
                self.error = error
            self._changed.notify_all()
        self._places.release()

    def finish(self) -> None:
        """Wait for every call; raise the first error."""
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0)
        if self.error is not None:
            raise self.error

    def settle(self) -> None:
        """Wait for the calls under way without raising, skipping those that have not begun.

        What is reserved and was not submitted is given back.
        """
        with self._changed:
            if self.error is None:
                self.error = Cancelled()
            self._changed.wait_for(lambda: self._open == 0)
            left, self._reserved = self._reserved, 0
        if self._budget is not None:
            self._budget.give(left)
