"""inference.fast_infer: plain requests inside the protocol, and what is refused there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from inference.batching.time_slicer import TimeSlicer
from kit.http import refusals
from tests.inference import small_models
from tests.inference.conftest import Running, Serve, hold_model, tensor, until

ROW = tensor("x", "FP32", [1, 4], [1, 2, 3, 4])
PATH = "/v2/models/slow/infer"


def request(
    body: bytes = b"{}", *headers: str, path: str = PATH, length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: a", *headers, f"Content-Length: {size}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return (
        int(head[0].split()[1]),
        headers,
        await reader.readexactly(int(headers["content-length"])),
    )


@pytest.fixture
def slow(repository: Path) -> Path:
    return small_models.put(
        repository, "slow", "1", small_models.slow(1), batching={"max_batch_size": 1}
    )


async def test_too_many_are_refused_unparsed_and_the_connection_goes_on(
    serve: Serve, slow: Path
) -> None:
    async with serve(max_in_flight=1) as running:
        engine = running.state.engine
        (served,) = running.state.registry.all_serving()
        model = hold_model(served)
        ahead = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: engine.full(served))
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request(b"no JSON at all", "X-Request-Id: mine"))
        status, headers, body = await read_answer(reader)
        assert status == 429, "a parsed one would have been a 400"
        assert headers["x-request-id"] == "mine"
        assert headers["x-slipway-pod"] == "pod-1"
        assert int(headers["retry-after"]) >= 1
        assert "try again later" in json.loads(body)["error"]
        assert engine.outcomes.refused["overloaded"] == 1
        # in two pieces it goes through the parser, and is refused all the same
        data = request(json.dumps({"inputs": [ROW]}).encode())
        for piece in (data[:80], data[80:]):
            writer.write(piece)
            await writer.drain()
        assert (await read_answer(reader))[0] == 429
        model.opened.set()
        assert (await ahead).status_code == 200
        await until(lambda: not engine.full(served))
        writer.write(request(json.dumps({"inputs": [ROW]}).encode()))
        assert (await read_answer(reader))[0] == 200
        writer.close()


async def test_refusals_are_counted_and_logged_in_sums(
    serve: Serve, slow: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line for each refusal costs as much as the refusal, at the worst of times."""
    monkeypatch.setattr(refusals, "LOG_EVERY", 0.0)
    async with serve(max_in_flight=1, prediction_log="stdout") as running:
        engine = running.state.engine
        (served,) = running.state.registry.all_serving()
        model = hold_model(served)
        ahead = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: engine.full(served))
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for _ in range(3):
            writer.write(request(b"{}", "X-Request-Id: refused-one"))
            assert (await read_answer(reader))[0] == 429
        writer.close()
        assert engine.outcomes.refused["overloaded"] == 3
        model.opened.set()
        assert (await ahead).status_code == 200
        metrics = (await running.client.get("/metrics")).text
        assert 'inference_refused_total{reason="overloaded"} 3.0' in metrics
    out = capfd.readouterr()
    assert "refused-one" not in out.out + out.err
    assert "requests refused" in out.out + out.err


async def test_a_large_body_is_refused_at_its_headers_and_left_unread(
    serve: Serve, slow: Path
) -> None:
    """Found: half a megabyte was read and thrown away for each refusal, at 560 us."""
    async with serve(max_in_flight=1) as running:
        engine = running.state.engine
        (served,) = running.state.registry.all_serving()
        model = hold_model(served)
        ahead = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: engine.full(served))
        for length in (500_000, 20_000_000):  # the short way and the other one
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(request(b"the first of it", length=length))
            status, headers, _ = await read_answer(reader)
            assert status == 429
            assert headers["connection"] == "close"
            assert await reader.read() == b"", "the server sends nothing more"
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request(b"the first of it", length=1000))
        writer.write(b"x" * 985)
        status, headers, _ = await read_answer(reader)
        assert (status, "connection" in headers) == (429, False)
        writer.close()
        model.opened.set()
        assert (await ahead).status_code == 200
        await until(lambda: engine.in_flight == 0)
        assert served.admission.open == served.leases == 0


async def send(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request(json.dumps({"inputs": [ROW]}).encode()))
    return reader, writer


async def test_those_who_wait_for_their_turn_are_answered_and_may_hang_up(
    serve: Serve, slow: Path
) -> None:
    async with serve() as running:
        engine = running.state.engine
        engine.time_slicer = held = Held()
        callers = [await send(running) for _ in range(3)]
        await until(lambda: len(engine.time_slicer) == 3)
        (served,) = running.state.registry.all_serving()
        callers[1][1].close()
        await until(lambda: engine.in_flight == 2)
        held.release()
        for position in (0, 2):
            assert (await read_answer(callers[position][0]))[0] == 200
            callers[position][1].close()
        assert engine.outcomes.refused["cancelled"] + served.statistics.failures["cancelled"] == 1
        assert engine.in_flight == served.leases == 0


async def test_who_waits_for_its_turn_while_its_model_is_replaced_is_answered(
    serve: Serve, slow: Path, repository: Path
) -> None:
    async with serve(repository_control=True) as running:
        engine = running.state.engine
        engine.time_slicer = held = Held()
        reader, writer = await send(running)
        await until(lambda: len(engine.time_slicer) == 1)
        small_models.put(repository, "slow", "1", small_models.slow(40))
        (old,) = running.state.registry.all_serving()
        await running.state.registry.load("slow")
        held.release()
        assert (await read_answer(reader))[0] == 200
        await until(lambda: old.leases == 0)
        writer.close()


async def test_a_request_whose_time_ran_out_before_its_turn_is_not_parsed(
    serve: Serve, slow: Path
) -> None:
    async with serve() as running:
        engine = running.state.engine
        engine.time_slicer = held = Held()
        late = asyncio.create_task(
            running.client.post(PATH, content=b"no JSON", headers={"x-request-timeout": "1us"})
        )
        await until(lambda: len(engine.time_slicer) == 1)
        held.release()
        assert (await late).status_code == 504


async def test_who_hangs_up_before_its_images_are_begun_leaves_nothing(
    serve: Serve, repository: Path
) -> None:
    """Found: a task that is cancelled before its first step runs none of its code: a place lost."""
    steps = [{"transform": "decode_image", "mode": "L"}, {"transform": "scale"},
             {"transform": "reshape", "shape": [2]}]  # fmt: skip
    small_models.put(repository, "slow", "1", small_models.affine(), preprocess=steps)
    async with serve() as running:
        engine = running.state.engine
        engine.time_slicer = held = Held()
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        image = tensor("x", "BYTES", [1], ["AAAA"])
        writer.write(request(json.dumps({"inputs": [image]}).encode()))
        await until(lambda: len(engine.time_slicer) == 1)
        (served,) = running.state.registry.all_serving()
        cycle = held.first.__self__  # type: ignore[attr-defined]
        held.release()
        assert served.leases == engine.in_flight == 1
        cycle.hang_up()
        await until(lambda: engine.in_flight == 0)
        assert served.leases == 0
        assert served.statistics.failures["cancelled"] == 1
        writer.close()


class Held(TimeSlicer):
    """Runs its work when the test says so."""

    def run(self, work: object) -> None:
        self._waiting.append(work)  # type: ignore[arg-type]

    @property
    def first(self) -> object:
        return self._waiting[0]

    def release(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
