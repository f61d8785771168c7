"""Messages of gRPC on their way: as many at once as there is memory for, were each the largest.

gRPC's library says neither how large a message will be nor how much of it is there. Until a call
asks for its message the caller can send no more than one window of it, so calls wait for their
turn to ask. A message of usual size is there by then, and its turn is over in a moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Any

import grpc

from inference.errors import BadRequest, Overloaded, SlowBody

Context = Any  # grpc.aio.ServicerContext: the package has no types

PATIENCE = 2.0
"""Seconds that a message may take to arrive while others wait for their turn."""


class Arriving:
    """A message that is being read, and the error it was given up for, if it was."""

    __slots__ = ("error", "since", "task")

    def __init__(self, since: float, task: asyncio.Task[Any]) -> None:
        self.since = since
        self.task = task
        self.error: Overloaded | SlowBody | None = None

    def give_up(self, error: Overloaded | SlowBody) -> None:
        """End the reading; `Receiving.read` raises the error."""
        if self.error is None:
            self.error = error
            self.task.cancel()


class Receiving:
    """Reads messages. Use it from one event loop only."""

    def __init__(self, most: int, *, seconds: float) -> None:
        """At most ``most`` messages arrive at once; each waits and arrives ``seconds`` at most."""
        self.most = most
        self._seconds = seconds
        self._arriving: dict[Arriving, None] = {}
        """In the order in which they began."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Context) -> bytes:
        """The call's message.

        Overloaded where it took long and others wait, SlowBody where it is not there in time,
        BadRequest where there is none.
        """
        if len(self._arriving) >= self.most or self._waiting:
            await self._turn()
        task = asyncio.current_task()
        assert task is not None
        one = Arriving(monotonic(), task)
        self._arriving[one] = None
        if self._timer is None:
            self._look_later()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if one.error is None:
                raise
            task.uncancel()
            raise one.error from None
        finally:
            del self._arriving[one]
            self._next()
        if one.error is not None:  # it came at the last moment; the cancellation is still to come
            await _swallow_cancellation(task)
            raise one.error
        if message is grpc.aio.EOF:
            raise BadRequest("the call has no message")
        assert isinstance(message, bytes)
        return message

    async def _turn(self) -> None:
        """Wait, those before it first, until fewer than ``most`` messages arrive."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._next()  # its turn came at the last moment: it is another's
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise self._overloaded() from None
            raise

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"{self.most} messages arrive at once, as many as there is memory for "
            "(body_memory_bytes, grpc_max_message_bytes), and others wait: try again"
        )

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PATIENCE / 4, self._look)

    def _look(self) -> None:
        self._timer = None
        self.look(monotonic())
        if self._arriving:
            self._look_later()

    def look(self, now: float) -> None:
        """Give up what takes too long at ``now``; of slow ones as many as wait for their turn."""
        wanted = len(self._waiting)
        for one in self._arriving:
            if now - one.since >= self._seconds:
                one.give_up(SlowBody(f"the message was not there within {self._seconds:g} s"))
            elif wanted > 0 and now - one.since >= PATIENCE:
                wanted -= 1
                one.give_up(self._overloaded())


async def _swallow_cancellation(task: asyncio.Task[Any]) -> None:
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task.uncancel()
