"""inference.grpc_receiving: messages that take long to arrive are bounded in number and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc
import pytest

from inference.errors import BadRequest, Overloaded, SlowBody
from inference.grpc_receiving import MOMENT, PATIENCE, Receiving


class Call:
    """A call whose message comes when the test says so."""

    def __init__(self) -> None:
        self.message: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read(self) -> Any:
        return await self.message


async def begun(receiving: Receiving, count: int) -> tuple[list[Call], list[asyncio.Task[bytes]]]:
    """Calls whose messages are on their way, in their order."""
    calls = [Call() for _ in range(count)]
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


async def test_messages_that_are_there_in_a_moment_are_not_bounded(make: Any) -> None:
    receiving, look = make(2)
    calls, tasks = await begun(receiving, 100)
    look(monotonic())
    for call in calls:
        call.message.set_result(b"m")
    assert await asyncio.gather(*tasks) == [b"m"] * 100


async def test_of_those_that_take_longer_the_last_ones_are_refused(make: Any) -> None:
    receiving, look = make(2)
    calls, tasks = await begun(receiving, 5)
    look(monotonic() + 2 * MOMENT)
    for task in tasks[2:]:
        with pytest.raises(Overloaded, match="2 large messages arrive"):
            await task
    for call in calls[:2]:
        call.message.set_result(b"m")
    assert await asyncio.gather(*tasks[:2]) == [b"m", b"m"]


async def test_who_had_its_time_makes_room_for_others(make: Any) -> None:
    receiving, look = make(2)
    _, tasks = await begun(receiving, 3)
    look(monotonic() + PATIENCE + MOMENT)
    with pytest.raises(Overloaded):
        await tasks[0]
    assert not tasks[1].done()
    for task in tasks:
        task.cancel()


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
    receiving, look = make(0)
    (call,), (task,) = await begun(receiving, 1)

    async def after() -> str:
        with pytest.raises(Overloaded):
            await task
        await asyncio.sleep(0)
        return "went on"

    waiting = asyncio.create_task(after())
    await asyncio.sleep(0)
    call.message.set_result(b"m")
    look(monotonic() + 2 * MOMENT)
    assert await waiting == "went on"


async def test_a_call_without_a_message_is_the_callers_fault(make: Any) -> None:
    receiving, _ = make(2)
    (call,), (task,) = await begun(receiving, 1)
    call.message.set_result(grpc.aio.EOF)
    with pytest.raises(BadRequest, match="no message"):
        await task


async def test_the_clock_looks_while_anything_arrives() -> None:
    receiving = Receiving(0, seconds=30.0)
    _, tasks = await begun(receiving, 3)
    for task in tasks:
        with pytest.raises(Overloaded):
            await task
