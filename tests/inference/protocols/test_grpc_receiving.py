"""inference.protocols.grpc.receiving: messages that arrive are bounded in number and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc
import pytest

from inference.errors import BadRequest, Overloaded, SlowBody
from inference.protocols.grpc.receiving import PATIENCE, Receiving


class Call:
    """A call whose message comes when the test says so."""

    def __init__(self, connection: str = "ipv4:127.0.0.1:1") -> None:
        self.message: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connection = connection

    def peer(self) -> str:
        return self._connection

    async def read(self) -> Any:
        return await self.message


async def begun(
    receiving: Receiving, count: int, connection: str = "ipv4:127.0.0.1:1"
) -> tuple[list[Call], list[asyncio.Task[bytes]]]:
    """Calls whose messages are on their way, in their order."""
    calls = [Call(connection) for _ in range(count)]
    tasks = [asyncio.create_task(receiving.read(call)) for call in calls]
    await asyncio.sleep(0)
    return calls, tasks


def never(_: float) -> None:
    """In place of the look that the clock takes: here the test says what time it is."""


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Receiving, Any]]:
    def made(most: int) -> tuple[Receiving, Any]:
        receiving = Receiving(most, seconds=30.0)
        look = receiving.look
        monkeypatch.setattr(receiving, "look", never)
        return receiving, look

    return made


async def test_messages_take_turns_in_the_order_of_their_calls(make: Any) -> None:
    """Found: 16 messages of 30 MB that came at once took 750 MiB."""
    receiving, look = make(2)
    calls, tasks = await begun(receiving, 5)
    assert len(receiving._arriving) == 2
    look(monotonic() + PATIENCE / 2)
    for number, call in enumerate(calls):
        call.message.set_result(b"%d" % number)
        assert await tasks[number] == b"%d" % number
        assert len(receiving._arriving) <= 2
    assert not receiving._arriving
    assert not receiving._waiting


async def test_who_takes_long_while_others_wait_is_given_up(make: Any) -> None:
    receiving, look = make(2)
    calls, tasks = await begun(receiving, 3)
    look(monotonic() + PATIENCE)
    with pytest.raises(Overloaded, match="2 messages arrive at the same time"):
        await tasks[0]
    calls[2].message.set_result(b"m")
    assert await tasks[2] == b"m"
    look(monotonic() + PATIENCE)
    calls[1].message.set_result(b"slow")
    assert await tasks[1] == b"slow", "nobody waited any more"


async def test_calls_of_one_connection_do_not_keep_those_of_another_waiting(make: Any) -> None:
    """Found: 20,480 calls without a message on 20 connections left no turn to anybody else."""
    receiving, look = make(2)
    _, silent = await begun(receiving, 1000, "the silent one's")
    (call,), (task,) = await begun(receiving, 1, "another's")
    later, others = await begun(receiving, 2, "a third one's")
    look(monotonic() + PATIENCE)
    await asyncio.sleep(0)
    for one in silent[:2]:
        with pytest.raises(Overloaded):
            await one
    call.message.set_result(b"m")
    assert await task == b"m"
    assert not any(one.done() for one in silent[2:])
    for one, other in zip(later, others, strict=True):
        one.message.set_result(b"m")
        assert await other == b"m"
    await asyncio.sleep(0)
    look(monotonic() + PATIENCE / 4)  # and it is waited for less from then on
    for one in silent[2:4]:
        with pytest.raises(Overloaded):
            await one
    for one in silent[4:]:
        one.cancel()
    await asyncio.gather(*silent[4:], return_exceptions=True)
    assert not receiving._waiting


async def test_a_call_that_ends_while_it_waits_gives_its_turn_to_the_next(make: Any) -> None:
    receiving, _ = make(1)
    calls, tasks = await begun(receiving, 4)
    tasks[1].cancel()
    await asyncio.sleep(0)
    calls[0].message.set_result(b"m")
    assert await tasks[0] == b"m"
    tasks[2].cancel()  # it has its turn by now, and has not begun
    calls[3].message.set_result(b"m")
    assert await tasks[3] == b"m"
    assert not receiving._arriving


async def test_the_wait_for_a_turn_has_an_end() -> None:
    receiving = Receiving(0, seconds=0.01)
    _, (task,) = await begun(receiving, 1)
    with pytest.raises(Overloaded, match="others wait"):
        await task


async def test_a_message_that_never_ends_is_given_up(make: Any) -> None:
    receiving, look = make(2)
    _, (task,) = await begun(receiving, 1)
    look(monotonic() + 31)
    with pytest.raises(SlowBody, match="within 30 s"):
        await task


async def test_a_caller_that_hangs_up_is_a_cancellation_as_ever(make: Any) -> None:
    receiving, _ = make(2)
    _, (task,) = await begun(receiving, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not receiving._arriving


async def test_a_message_of_the_last_moment_ends_the_call_and_nothing_after_it(make: Any) -> None:
    receiving, look = make(1)
    (call,), (task,) = await begun(receiving, 1)

    async def after() -> str:
        with pytest.raises(SlowBody):
            await task
        await asyncio.sleep(0)
        return "went on"

    waiting = asyncio.create_task(after())
    await asyncio.sleep(0)
    call.message.set_result(b"m")
    look(monotonic() + 31)
    assert await waiting == "went on"


async def test_a_call_without_a_message_is_the_callers_fault(make: Any) -> None:
    receiving, _ = make(2)
    (call,), (task,) = await begun(receiving, 1)
    call.message.set_result(grpc.aio.EOF)
    with pytest.raises(BadRequest, match="no message"):
        await task
