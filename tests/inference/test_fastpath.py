"""inference.fastpath: what may be refused by its bytes alone, and how such a refusal looks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.fastpath import whole_infer
from inference.turns import Turns
from tests.inference import small_models
from tests.inference.conftest import Running, Serve, tensor, until

ROW = tensor("x", "FP32", [1, 4], [1, 2, 3, 4])
PATH = "/v2/models/slow/infer"


def request(
    body: bytes = b"{}", *headers: str, path: str = PATH, length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: a", *headers, f"Content-Length: {size}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("path", [PATH, "/v2/models/a-b.c/versions/12/infer"])
def test_a_whole_plain_request_is_known_by_its_bytes(path: str) -> None:
    assert whole_infer(request(b"anything at all", path=path)) == path
    assert whole_infer(request(b"", "Connection: keep-alive", path=path)) == path


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request(b"{}")[:-1],
        request(b"{}") + b"P",
        request(b"{}", length=3),
        request(b"{}", length=1),
        request(b"{}", "Transfer-Encoding: chunked"),
        request(b"{}", "transfer-encoding : chunked"),
        request(b"{}", "Expect: 100-continue"),
        request(b"{}", "Connection: close"),
        request(b"{}", "Upgrade: h2c"),
        request(b"{}", "content-length: 2"),
        request(b"{}", path="/v2/models/slow"),
        request(b"{}", path="/v2/models/a%2Fb/infer"),
        request(b"{}", path="/v2/repository/models/slow/load"),
        request(b"{}").replace(b"1.1", b"1.0"),
        request(b"{}").replace(b"POST", b"GET"),
        request(b"{}").replace(b"Content-Length: 2", b"Host: b"),
    ],
)
def test_everything_else_is_for_the_parser(data: bytes) -> None:
    assert whole_infer(data) is None


@given(st.binary(max_size=300))
def test_any_body_of_the_right_length_is_the_whole_request(body: bytes) -> None:
    data = request(body)
    assert whole_infer(data) == PATH
    assert whole_infer(data + b"x") is None
    assert whole_infer(data[:-1]) is None


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
        repository, "slow", "1", small_models.slow(), batching={"max_batch_size": 1}
    )


async def test_too_many_are_refused_unparsed_and_the_connection_goes_on(
    serve: Serve, slow: Path
) -> None:
    async with serve(max_in_flight=1) as running:
        engine = running.app.engine
        ahead = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: engine.full)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request(b"no JSON at all", "X-Request-Id: mine"))
        status, headers, body = await read_answer(reader)
        assert status == 429, "a parsed one would have been a 400"
        assert headers["x-request-id"] == "mine"
        assert headers["x-slipway-pod"] == "pod-1"
        assert int(headers["retry-after"]) >= 1
        assert "try again later" in json.loads(body)["error"]
        assert engine.refused["overloaded"] == 1
        # in two pieces it goes through the parser, and is refused all the same
        data = request(json.dumps({"inputs": [ROW]}).encode())
        for piece in (data[:80], data[80:]):
            writer.write(piece)
            await writer.drain()
        assert (await read_answer(reader))[0] in (200, 429)
        assert (await ahead).status_code == 200
        await until(lambda: not engine.full)
        writer.write(request(json.dumps({"inputs": [ROW]}).encode()))
        assert (await read_answer(reader))[0] == 200
        writer.close()


async def test_what_is_refused_stands_in_the_prediction_log(
    serve: Serve, slow: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A refusal by bytes alone would leave no trace there, so the log has it parsed."""
    async with serve(max_in_flight=1, prediction_log="stdout") as running:
        ahead = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: running.app.engine.full)
        refused = await running.client.post(
            PATH, json={"inputs": [ROW]}, headers={"x-request-id": "refused-one"}
        )
        assert refused.status_code == 429
        await ahead
    assert '"refused-one"' in capfd.readouterr().out


async def send(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(request(json.dumps({"inputs": [ROW]}).encode()))
    return reader, writer


async def test_those_who_wait_for_their_turn_are_answered_and_may_hang_up(
    serve: Serve, slow: Path
) -> None:
    async with serve() as running:
        engine = running.app.engine
        engine.turns = held = Held()
        callers = [await send(running) for _ in range(3)]
        await until(lambda: len(engine.turns) == 3)
        (served,) = running.app.registry.all_serving()
        callers[1][1].close()
        await until(lambda: engine.in_flight == 2)
        held.release()
        for position in (0, 2):
            assert (await read_answer(callers[position][0]))[0] == 200
            callers[position][1].close()
        assert engine.refused["cancelled"] + served.statistics.failures["cancelled"] == 1
        assert engine.in_flight == served.leases == 0


async def test_who_waits_for_its_turn_while_its_model_is_replaced_is_answered_by_the_new_one(
    serve: Serve, slow: Path, repository: Path
) -> None:
    async with serve(repository_control=True) as running:
        engine = running.app.engine
        engine.turns = held = Held()
        reader, writer = await send(running)
        await until(lambda: len(engine.turns) == 1)
        small_models.put(repository, "slow", "1", small_models.slow(40))
        await running.app.registry.load("slow")
        held.release()
        assert (await read_answer(reader))[0] == 200
        writer.close()


async def test_a_request_whose_time_ran_out_before_its_turn_is_not_parsed(
    serve: Serve, slow: Path
) -> None:
    async with serve() as running:
        engine = running.app.engine
        engine.turns = held = Held()
        late = asyncio.create_task(
            running.client.post(PATH, content=b"no JSON", headers={"x-request-timeout": "1us"})
        )
        await until(lambda: len(engine.turns) == 1)
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
        engine = running.app.engine
        engine.turns = held = Held()
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        image = tensor("x", "BYTES", [1], ["AAAA"])
        writer.write(request(json.dumps({"inputs": [image]}).encode()))
        await until(lambda: len(engine.turns) == 1)
        (served,) = running.app.registry.all_serving()
        cycle = held.first.__self__  # type: ignore[attr-defined]
        held.release()
        assert served.leases == engine.in_flight == 1
        cycle.hang_up()
        await until(lambda: engine.in_flight == 0)
        assert served.leases == 0
        assert served.statistics.failures["cancelled"] == 1
        writer.close()


class Held(Turns):
    """Turns that come when the test says so."""

    def run(self, work: object) -> None:
        self._waiting.append(work)  # type: ignore[arg-type]

    @property
    def first(self) -> object:
        return self._waiting[0]

    def release(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
