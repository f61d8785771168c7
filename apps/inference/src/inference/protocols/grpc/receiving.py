"""Reads messages of gRPC: at the same time no more than fit in memory, were each the largest.

gRPC's library says neither how large a message will be nor how much of it is there. Until a call
asks for its message the caller can send no more than one window of it, so calls wait until they
may ask. A message of usual size is there by then and is read in a moment.

Which call is next goes by connections: of those that wait the one whose messages were given up
least often, then the one with the fewest arriving. So thousands of calls that never send their
message, on some connections, keep a call on another one waiting for two seconds and no longer.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from time import monotonic
from typing import Any

import grpc

from inference.errors import BadRequest, Overloaded, SlowBody

Context = Any  # grpc.aio.ServicerContext: the package has no types

PATIENCE = 2.0
"""Seconds that a message may take to arrive while others wait.

A quarter of that on a connection some of whose messages were given up."""
MOST_REMEMBERED = 4096
"""Connections of which it is known how many of their messages were given up."""


class Arriving:
    """A message that is being read, and the error it was given up for, if it was."""

    __slots__ = ("connection", "error", "since", "task")

    def __init__(self, connection: str, since: float, task: asyncio.Task[Any]) -> None:
        self.connection = connection
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
        """At most ``most`` messages arrive together.

        Each waits, and then arrives, ``seconds`` at most.
        """
        self.most = most
        self._seconds = seconds
        self._arriving: dict[Arriving, None] = {}
        """In the order in which they began."""
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By connection, the one that was served last at the end."""
        self._given_up: dict[str, int] = {}
        """Messages given up, by connection."""
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Context) -> bytes:
        """The call's message.

        Overloaded where it took long and others wait, SlowBody where it is not there in time,
        BadRequest where there is none.
        """
        connection: str = context.peer()
        if len(self._arriving) >= self.most or self._waiting:
            await self._admitted(connection)
        task = asyncio.current_task()
        assert task is not None
        one = Arriving(connection, monotonic(), task)
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

    async def _admitted(self, connection: str) -> None:
        """Wait until fewer than ``most`` messages arrive and none goes before this one."""
        admission: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(connection, deque()).append(admission)
        try:
            async with asyncio.timeout(self._seconds):
                await admission
        except BaseException as error:
            if admission.done() and not admission.cancelled():
                self._next()  # it was admitted at the last moment: let another one read
            else:
                self._leave(connection, admission)
            if isinstance(error, TimeoutError):
                raise self._overloaded() from None
            raise

    def _leave(self, connection: str, admission: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(connection, deque())
        if admission in waiting:
            waiting.remove(admission)
            if not waiting:
                del self._waiting[connection]

    def _next(self) -> None:
        while self._waiting:
            arriving = Counter(one.connection for one in self._arriving)
            connection = min(
                self._waiting, key=lambda name: (self._given_up.get(name, 0), arriving[name])
            )
            waiting = self._waiting.pop(connection)
            admission = waiting.popleft()
            if waiting:
                self._waiting[connection] = waiting
            if not admission.done():
                admission.set_result(None)
                return

    def _give_up(self, one: Arriving) -> None:
        """End a message for which others wait, and remember on which connection it was."""
        one.give_up(self._overloaded())
        self._given_up[one.connection] = self._given_up.pop(one.connection, 0) + 1
        if len(self._given_up) > MOST_REMEMBERED:
            del self._given_up[next(iter(self._given_up))]

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"{self.most} messages arrive at the same time, as many as there is memory for "
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
        """Give up what takes too long at ``now``; of slow ones as many as others wait."""
        wanted = sum(map(len, self._waiting.values()))
        for one in self._arriving:
            if now - one.since >= self._seconds:
                one.give_up(SlowBody(f"the message was not there within {self._seconds:g} s"))
            elif wanted > 0 and now - one.since >= self._patience(one.connection):
                wanted -= 1
                self._give_up(one)

    def _patience(self, connection: str) -> float:
        return PATIENCE / 4 if connection in self._given_up else PATIENCE


async def _swallow_cancellation(task: asyncio.Task[Any]) -> None:
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task.uncancel()
