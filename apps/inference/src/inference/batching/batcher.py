"""Dynamic batching: requests that wait together run together.

The rules, each held by a test:

- A model that is idle never waits: what is there is run immediately. While it is busy requests
  gather, and the next batch takes as many rows as fit. No timer is needed for that, and an
  unloaded model adds no delay.
- With several instances, a free one may hold back up to ``max_queue_delay`` as long as another
  is running, if the rows expected by then are worth it (``"auto"``).
- Rows are counted, not requests; a request larger than a batch is run in pieces.
- Only requests whose tensors differ in nothing but their rows share a batch.
- A batch that fails is halved and run again, so a bad row fails its own request alone.
- A request that was cancelled or whose time is up leaves the queue and is not run. One that has
  waited longer than its model's target is refused, as long as two batches are behind it.
- A batch that runs for less than a millisecond runs on the loop's own thread: a thread of its own
  waits two or three times for the interpreter lock, which takes longer than such a run.

Everything but the longer runs happens on the event loop, so nothing here needs a lock. Such a
run costs one hand-over to a thread and one back, however many requests it holds.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal, Protocol

from inference.batching.batch import Batch, Runner
from inference.batching.estimates import DurationModel, RateModel, worth_waiting
from inference.batching.item import FOREVER, Item
from inference.batching.short_runs import SHORT_BATCH, ShortRuns
from inference.batching.split import Split
from inference.errors import Cancelled, DeadlineExceeded, Overloaded, TooLarge, Unavailable
from kit.http.admission import Admission

Soon = Callable[[Callable[[], None]], object]


class Observer(Protocol):
    """Who hears of each batch that was run: rows, seconds, requests."""

    def batch(self, rows: int, seconds: float, requests: int) -> None: ...


class Batcher:
    """The queue in front of one loaded model. Use it from the event loop only."""

    def __init__(
        self,
        runner: Runner,
        *,
        name: str,
        batching: bool = True,
        max_batch_size: int = 64,
        max_queue_size: int = 1024,
        max_queue_delay: float | Literal["auto"] = 0.0,
        instances: int = 1,
        observer: Observer | None = None,
        admission: Admission | None = None,
        soon: Soon | None = None,
        short_run: float = 0.0,
        larger_short_batches: bool = False,
    ) -> None:
        """``max_queue_size`` counts rows that wait, ``max_queue_delay`` is in seconds.

        ``admission`` learns how long requests waited. ``soon`` calls what it is given when the
        requests that are there have been parsed. Runs that are expected to take up to
        ``short_run`` seconds of CPU run on the loop's thread; ``larger_short_batches`` lets them
        take up to ``SHORT_BATCH`` rows, more than ``max_batch_size``.
        """
        self._runner = runner
        self._name = name
        self._batching = batching
        self._max_batch_size = max_batch_size if batching else 1
        larger = batching and larger_short_batches
        self.short_runs = ShortRuns(
            short_run,
            max_rows=max(max_batch_size, SHORT_BATCH) if larger else self._max_batch_size,
        )
        self._max_queue_size = max_queue_size
        self._max_queue_delay = max_queue_delay
        self._instances = instances
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._soon: Soon = soon or self._loop.call_soon
        self._admission = admission
        self._rows_per_request = 1.0
        self._settle_bounds()
        self._late_looked = 0.0
        self._queue: OrderedDict[Item, None] = OrderedDict()
        self._queued_rows = 0
        self._running: set[Batch] = set()
        self._pump_scheduled = False
        self._hold: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = FOREVER
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.durations = DurationModel()
        self.rate = RateModel()
        self._inbox: SimpleQueue[Batch | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"model-{name}-{number}", daemon=True)
            for number in range(instances)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    @property
    def running_batches(self) -> int:
        """Batches that are being run."""
        return len(self._running)

    def submit(self, item: Item) -> None:
        """Queue a request; its ``done`` is called later, never from here.

        Overloaded where the queue is full, TooLarge where it could never hold the request,
        Unavailable after :meth:`close`.
        """
        if self._closing:
            raise Unavailable(f"model {self._name!r} is being unloaded")
        rows = item.rows
        self.check_room(rows)
        item.enqueued = time.monotonic()
        item.arrived = item.arrived or item.enqueued
        self._rows_per_request += (rows - self._rows_per_request) * 0.02
        if rows > self._max_batch_size and self._batching:
            item.parts = Split(item, self._max_batch_size, self.cancel).parts
            for part in item.parts:
                part.enqueued = item.enqueued
                part.arrived = item.arrived
                part.is_part = True
                self._queue[part] = None
        else:
            self._queue[item] = None
        self._queued_rows += rows
        if item.deadline < self._sweep_at:
            self._sweep_by(item.deadline)
        if not self._pump_scheduled and len(self._running) < self._instances:
            # not now but after every request that this iteration of the loop has read: they are
            # there already, and running them together delays none of them
            self._pump_scheduled = True
            self._soon(self._pump)

    def check_room(self, rows: int) -> None:
        """Overloaded where the queue cannot take so many rows now, TooLarge where it never can."""
        if self._queued_rows + rows > self._max_queue_size:
            self._refuse(rows)

    def cancel(self, item: Item) -> None:
        """Forget a request: free its place, do not run it if it is not running yet."""
        if item.settled:
            return
        item.error = Cancelled("the request was cancelled")
        item.settled = True
        self._leave(item)
        for part in item.parts:
            self.cancel(part)

    async def close(self) -> None:
        """Refuse what comes, finish what is there, stop the threads."""
        self._closing = True
        if self._queue or self._running:
            self._idle.clear()
            await self._idle.wait()
        if self._sweep is not None:
            self._sweep.cancel()
        for _ in self._threads:
            self._inbox.put(None)

    def _refuse(self, rows: int) -> None:
        if rows > self._max_queue_size:
            raise TooLarge(
                f"{rows} rows in one request: model {self._name!r} takes at most "
                f"{self._max_queue_size} (max_queue_size); send them in parts"
            )
        raise self._overloaded()

    def _overloaded(self) -> Overloaded:
        ahead = self.durations.predict(self._queued_rows, self._max_batch_size) / self._instances
        return Overloaded(
            f"model {self._name!r} has {self._queued_rows} rows waiting, more than it can run in "
            "time: try again later",
            retry_after=math.ceil(ahead),
        )

    def _settle_bounds(self) -> None:
        """Two batches may always be open, and never more than the queue takes."""
        if self._admission is not None:
            rows = max(1.0, self._rows_per_request)
            most = self._max_queue_size + self._instances * self._max_batch_size
            self._admission.bound(
                max(2, round(2 * self._max_batch_size / rows)), math.floor(most / rows)
            )

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._admission is not None:
            self._refuse_late(self._admission.target)
        while self._queue and len(self._running) < self._instances:
            if self._running and self._holds_back():
                return
            short = self.short_runs.rows_for(min(self._queued_rows, self._max_batch_size))
            batch = self._take(short or self._max_batch_size)
            if batch is None:
                break
            if short:
                batch.run(self._runner)
                self._learn(batch)
                self._settle(batch)
                self.short_runs.check(batch.cpu)
                if self._queue and not self._pump_scheduled:
                    self._pump_scheduled = True
                    self._soon(self._pump)
                break
            self._running.add(batch)
            self._inbox.put(batch)
        if self._closing and not self._queue and not self._running:
            self._idle.set()

    def _refuse_late(self, target: float) -> None:
        """Refuse who has been queued past the target, the oldest first, down to two batches.

        A request that is run in pieces stays: the first of them may have been run.
        """
        now = time.monotonic()
        if self._queued_rows <= 2 * self._max_batch_size or now < self._late_looked + target / 10:
            return
        self._late_looked = now
        for item in list(self._queue):
            if self._queued_rows <= 2 * self._max_batch_size or now - item.enqueued <= target:
                return
            if not item.is_part:
                item.error = self._overloaded()
                self._leave(item)
                item.settled = True
                item.done(item)

    def _holds_back(self) -> bool:
        """Whether a free instance should wait for more rows; only while another one runs."""
        if self._max_queue_delay == 0.0 or self._queued_rows >= self._max_batch_size:
            return False
        now = time.monotonic()
        oldest = next(iter(self._queue)).enqueued
        if self._max_queue_delay == "auto":
            left = worth_waiting(self._queued_rows, self.rate.per_second, self.durations.base) - (
                now - oldest
            )
        else:
            left = self._max_queue_delay - (now - oldest)
        if left <= 0:
            return False
        if self._hold is not None:
            self._hold.cancel()
        self._hold = self._loop.call_later(left, self._release)
        return True

    def _release(self) -> None:
        self._hold = None
        if self._queue and len(self._running) < self._instances:
            batch = self._take(self._max_batch_size)
            if batch is not None:
                self._running.add(batch)
                self._inbox.put(batch)
        self._pump()

    def _take(self, most: int) -> Batch | None:
        """The next batch: the oldest request and those behind it that suit it, ``most`` rows."""
        items: list[Item] = []
        rows = 0
        key: object = None
        now = time.monotonic()
        expired: list[Item] = []
        for item in self._queue:
            if item.deadline <= now:
                expired.append(item)
            elif not items:
                items.append(item)
                rows, key = item.rows, item.key
            elif item.key == key:
                if rows + item.rows > most:
                    break
                items.append(item)
                rows += item.rows
            if rows >= most:
                break
        for item in expired:
            self._expire(item)
        for item in items:
            del self._queue[item]
        self._queued_rows -= rows
        self.rate.add(rows, now)
        if items and self._admission is not None:
            self._admission.waited(now - items[0].arrived)
            self._settle_bounds()
        return Batch(items, rows) if items else None

    def _finish(self, batch: Batch) -> None:
        """On the loop: answer a batch's requests and start the next one first."""
        self._running.discard(batch)
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        self._learn(batch)
        self._pump()
        self._settle(batch)

    def _learn(self, batch: Batch) -> None:
        """Remember how long a batch ran."""
        self.durations.add(batch.rows, batch.finished - batch.started)
        self.short_runs.add(batch.rows, batch.cpu)

    def _settle(self, batch: Batch) -> None:
        """Answer the requests of a batch that was run."""
        if self._observer is not None:
            self._observer.batch(batch.rows, batch.finished - batch.started, len(batch.items))
        for item in batch.items:
            if item.settled:
                continue
            if item.deadline < batch.finished:  # the timer had no chance to say so
                self._expire(item)
                continue
            item.settled = True
            item.started = batch.started
            item.finished = batch.finished
            item.done(item)

    def _leave(self, item: Item) -> None:
        if item in self._queue:
            del self._queue[item]
            self._queued_rows -= item.rows
            if self._closing and not self._queue and not self._running:
                self._idle.set()

    def _expire(self, item: Item) -> None:
        item.error = DeadlineExceeded(
            f"the request's time ran out after {time.monotonic() - item.enqueued:.3f} s "
            f"{'in the queue of' if item in self._queue else 'while it was run by'} "
            f"model {self._name!r}"
        )
        self._leave(item)
        item.settled = True
        item.done(item)

    def _sweep_by(self, deadline: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = deadline
        self._sweep = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._sweep_now)

    def _sweep_now(self) -> None:
        """Answer every request whose time is up, in the queue or running.

        One timer for the earliest deadline serves them all; setting one per request would
        cost more than the rest of the batcher.
        """
        self._sweep = None
        self._sweep_at = FOREVER
        now = time.monotonic()
        earliest = FOREVER
        waiting = list(self._queue)
        for batch in self._running:
            waiting += batch.items
        for item in waiting:
            if item.settled:
                continue
            if item.deadline <= now:
                self._expire(item)
            elif item.deadline < earliest:
                earliest = item.deadline
        if earliest < FOREVER:
            self._sweep_by(earliest)

    def _work(self) -> None:
        """A thread: one batch after the other."""
        while (batch := self._inbox.get()) is not None:
            batch.run(self._runner)
            try:
                self._loop.call_soon_threadsafe(self._finish, batch)
            except RuntimeError:  # the loop is closed: nobody waits for this any more
                return
