"""kit.pictures.pool: what is decoded at once fits into the memory there is for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kit.memory.budget import WITHOUT_LIMIT, body_budget
from kit.pictures.pool import (
    MOST_JSON_MEMORY,
    SHARE,
    BusyError,
    Decoding,
    TooCostlyError,
    csv_memory,
    json_memory,
)


def run(work: Callable[[Decoding], Coroutine[Any, Any, None]], **given: Any) -> None:
    async def main() -> None:
        decoding = Decoding(100, **given)
        try:
            await work(decoding)
        finally:
            decoding.close()

    asyncio.run(main())


def test_what_can_never_fit_is_refused_at_once_and_named() -> None:
    async def work(decoding: Decoding) -> None:
        with pytest.raises(TooCostlyError, match="the picture takes about 1 MiB"):
            await decoding.run(101, "the picture", lambda: None)
        assert decoding.free == 100

    run(work)


def test_work_waits_for_memory_in_the_order_it_came_and_gives_it_back() -> None:
    async def work(decoding: Decoding) -> None:
        hold, order = threading.Event(), []
        first = asyncio.create_task(decoding.run(60, "a", hold.wait))
        await asyncio.sleep(0)
        second = asyncio.create_task(decoding.run(60, "b", order.append, "b"))
        await asyncio.sleep(0)
        # small enough for what is free, but not its turn: else large ones never get theirs
        third = asyncio.create_task(decoding.run(30, "c", order.append, "c"))
        await asyncio.sleep(0)
        assert (decoding.free, order) == (40, [])
        hold.set()
        await asyncio.gather(first, second, third)
        await asyncio.sleep(0)
        assert decoding.free == 100
        assert sorted(order) == ["b", "c"]

    run(work, wait_seconds=60.0)


def test_waiting_ends_and_leaves_nothing_behind() -> None:
    async def work(decoding: Decoding) -> None:
        async with decoding.room(80, "a"):
            with pytest.raises(BusyError, match="in use"):
                await decoding.run(30, "b", lambda: None)
            assert decoding.free == 20
            await decoding.run(20, "c", lambda: None)  # nobody stands before it any more
        await asyncio.sleep(0)
        assert decoding.free == 100

    run(work, wait_seconds=0.01)


def test_a_caller_that_gives_up_leaves_the_memory_to_the_thread_until_it_ends() -> None:
    async def work(decoding: Decoding) -> None:
        hold, begun = threading.Event(), threading.Event()

        def slow() -> None:
            begun.set()
            hold.wait()

        task = asyncio.create_task(decoding.run(100, "a", slow))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert decoding.free == 0
        hold.set()
        async with decoding.room(100, "b"):
            assert decoding.free == 0
        assert decoding.free == 100

    run(work, wait_seconds=60.0)


def test_an_error_of_the_work_is_the_callers_and_its_memory_is_given_back() -> None:
    async def work(decoding: Decoding) -> None:
        with pytest.raises(ZeroDivisionError):
            await decoding.run(50, "a", divmod, 1, 0)
        await asyncio.sleep(0)
        assert decoding.free == 100

    run(work)


def test_work_that_fails_leaves_nothing_behind() -> None:
    """Found: the error kept the work's arguments alive after their memory was given back."""

    class Document:
        pass

    async def work(decoding: Decoding) -> None:
        document = Document()
        left = weakref.ref(document)
        with contextlib.suppress(TypeError):
            await decoding.run(50, "a", abs, document)  # type: ignore[arg-type]
        del document
        await asyncio.sleep(0)
        assert left() is None

    gc.disable()
    try:
        run(work)
    finally:
        gc.enable()


def test_the_memory_follows_the_containers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.memory.budget.memory_limit", lambda: 384 << 20)
    assert Decoding().total == 128 << 20
    assert body_budget(0).total == 64 << 20
    monkeypatch.setattr("kit.memory.budget.memory_limit", lambda: None)
    assert Decoding().total == body_budget(0).total == WITHOUT_LIMIT
    assert SHARE > 1


@pytest.mark.parametrize(
    ("document", "least"),
    [
        (b"[" + b"1," * 999 + b"1]", 48_000),
        (b"[" + b"[]," * 999 + b"[]]", 88_000),
        (b"[" + b'{"a":1},' * 999 + b"{}]", 240_000),
        (b"[" + b'"ab",' * 999 + b'""]', 88_000),
    ],
)
def test_json_is_known_to_take_more_than_its_bytes(document: bytes, least: int) -> None:
    assert least < json_memory(document) < 5 * least


def test_csv_is_known_to_take_more_than_its_bytes() -> None:
    assert csv_memory(b"1,2\n" * 1000) > 4000 * 60


@pytest.mark.parametrize("part", [b"[],", b"1,", b'{"a":1},', b'"",'])
def test_json_that_takes_a_parser_too_long_is_refused_whatever_memory_there_is(
    part: bytes,
) -> None:
    """A parser makes all of it in one go: 8 MB of lists stopped everything for half a second."""
    least = json_memory(part * 1000) // 1000
    count = MOST_JSON_MEMORY // least
    assert json_memory(part * (count - 1)) <= MOST_JSON_MEMORY
    with pytest.raises(TooCostlyError, match="nothing else runs meanwhile: at most 96 MiB"):
        json_memory(part * (count + count // 10))
