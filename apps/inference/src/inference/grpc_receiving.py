"""Messages of gRPC on their way: those that take long to arrive are bounded in number.

gRPC's library takes any number of messages at once, each up to the limit of one, and says neither
how large a message will be nor how much of it is there. Small ones are there at once. So what is
bounded is how many arrive that were not there within a moment: as many as there is memory for,
were each of them the largest.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import grpc

from inference.errors import BadRequest, Overloaded, SlowBody

Context = Any  # grpc.aio.ServicerContext: the package has no types

MOMENT = 0.1
"""Seconds within which a message of usual size has arrived."""
PATIENCE = 5.0
"""Seconds that a message may take while others have no room to arrive."""
_OVERLOADED = "overloaded"
_SLOW = "slow"


class Arriving:
    """A message that is being read, and why it was given up, if it was."""

    __slots__ = ("since", "task", "why")

    def __init__(self, since: float, task: asyncio.Task[Any]) -> None:
        self.since = since
        self.task = task
        self.why = ""

    def give_up(self, why: str) -> None:
        """End the reading; `Receiving.read` raises the error."""
        if not self.why:
            self.why = why
            self.task.cancel()


class Receiving:
    """Reads messages. Use it from one event loop only."""

    def __init__(self, most: int, *, seconds: float) -> None:
        """At most ``most`` messages take longer than a moment, and none longer than ``seconds``."""
        self.most = most
        self._seconds = seconds
        self._arriving: dict[Arriving, None] = {}
        """In the order in which they began."""
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Context) -> bytes:
        """The call's message.

        Overloaded where too many others arrive, SlowBody where it is not there in time, BadRequest
        where there is none.
        """
        task = asyncio.current_task()
        assert task is not None
        one = Arriving(monotonic(), task)
        self._arriving[one] = None
        if self._timer is None:
            self._look_later()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if not one.why:
                raise
            task.uncancel()
            raise self._error(one) from None
        finally:
            del self._arriving[one]
        if one.why:  # it came at the last moment, and the cancellation is still to come
            await _swallow_cancellation(task)
            raise self._error(one)
        if message is grpc.aio.EOF:
            raise BadRequest("the call has no message")
        assert isinstance(message, bytes)
        return message

    def _error(self, one: Arriving) -> Overloaded | SlowBody:
        if one.why == _SLOW:
            return SlowBody(f"the message was not there within {self._seconds:g} s")
        return Overloaded(
            f"{self.most} large messages arrive, as many as there is memory for "
            "(body_memory_bytes): try again"
        )

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(MOMENT, self._look)

    def _look(self) -> None:
        self._timer = None
        self.look(monotonic())
        if self._arriving:
            self._look_later()

    def look(self, now: float) -> None:
        """Give up what takes too long at ``now``, and of the others those that are too many.

        Who had its time goes first; else who came last, so that the others arrive.
        """
        late = [one for one in self._arriving if not one.why and now - one.since >= MOMENT]
        for one in late:
            if now - one.since >= self._seconds:
                one.give_up(_SLOW)
        late = [one for one in late if not one.why]
        while len(late) > self.most:
            oldest = now - late[0].since >= PATIENCE
            late.pop(0 if oldest else -1).give_up(_OVERLOADED)


async def _swallow_cancellation(task: asyncio.Task[Any]) -> None:
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task.uncancel()
