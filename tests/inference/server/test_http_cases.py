"""Requests in the shapes of strangers' clients, each with its right answers in order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance import write_section
from tests.inference import small_models
from tests.inference.conftest import Running, serving
from tests.inference.http_cases import CORPUS, PATH, Case

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(params=["as one", "in pieces"])
async def pieces(request: pytest.FixtureRequest) -> int:
    """How many bytes are written at a time."""
    return 1 << 20 if request.param == "as one" else 7


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    """A model server with one model."""
    small_models.put(tmp_path, "affine", "1", small_models.affine())
    async with serving(str(tmp_path)) as running:
        yield running


async def answers_to(server: Running, sent: bytes, pieces: int = 1 << 20) -> bytes:
    """All that comes back when this is sent and the sending side closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answer = asyncio.create_task(reader.read())
    pieces = max(pieces, len(sent) // 200)
    try:
        for at in range(0, len(sent), pieces):
            writer.write(sent[at : at + pieces])
            await writer.drain()
            if pieces < len(sent):
                await asyncio.sleep(0)
        if b"Expect: 100-continue" not in sent or not sent.endswith(b"\r\n\r\n"):
            writer.write_eof()
    except (ConnectionError, OSError):
        pass  # refused before all of it was sent
    try:
        return await asyncio.wait_for(asyncio.shield(answer), 0.5 if b"Expect" in sent else 20)
    except TimeoutError:
        writer.close()
        return await answer
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def first_part(server: Running, sent: bytes) -> bytes:
    """What is answered first, the connection kept open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    finally:
        writer.close()


def statuses(said: bytes) -> list[int]:
    """The statuses of the answers, interim ones included."""
    return [int(found) for found in _STATUS.findall(said)]


async def wrong(server: Running, case: Case, pieces: int) -> str | None:
    """What is wrong with the answers to a case."""
    if case.statuses in ([100], [413]):
        found = statuses(await first_part(server, case.sent))
    else:
        found = statuses(await answers_to(server, case.sent, pieces))
        if case.statuses[:1] != [100]:
            found = [status for status in found if status != 100]
    return None if found == case.statuses else f"{case.name}: {found}, not {case.statuses}"


@pytest.mark.parametrize("kind", list(CORPUS))
async def test_every_shape_of_request_has_its_right_answers(
    server: Running, pieces: int, kind: str
) -> None:
    (served,) = server.state.registry.all_serving()
    faults = [fault for case in CORPUS[kind] if (fault := await wrong(server, case, pieces))]
    assert not faults, "\n".join(faults)
    answer = await server.client.post(
        PATH.decode(),
        json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
    )
    assert answer.json()["outputs"][0]["data"] == [3.0, 5.0]
    assert served.leases == 0


@pytest.mark.conformance
async def test_the_table_of_http_cases(server: Running) -> None:
    lines = [
        "Shapes of requests that RFC 9110 and 9112 and the suites of other parsers discuss, "
        "rebuilt (tests/inference/http_cases.py), against the model server, as one write and in "
        "pieces. Numbers in brackets are RFCs and their sections.",
        "",
        "| request | answers | why |",
        "|---|---|---|",
    ]
    for kind, cases in CORPUS.items():
        for case in cases:
            assert await wrong(server, case, 1 << 20) is None, kind
            said = ", ".join(map(str, case.statuses)) or "none, closed"
            lines.append(f"| {case.name} | {said} | {case.why} |")
    write_section("HTTP requests", "\n".join(lines))
