"""inference.protocols.openapi, and schemathesis throwing what it can think of at every path."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis

from inference.protocols.openapi import document
from kit.version import version_of
from tests.inference import small_models
from tests.inference.conftest import Running, serving
from tests.openapi_checks import Allowed, Contract, aim, examples, not_documented

ALLOWED = (
    Allowed(
        "positive_data_acceptance",
        r"/infer$|:predict$|^POST /invocations$",
        (400, 415),
        r"takes \[|has shape|is unknown|takes \d|the model takes|instances\[|data\[|binary"
        r"|input '\w+' is missing|nested unevenly|is FP32, got [A-Z]|CSV line \d",
        "What a model takes (its inputs, their datatypes and shapes) stands in its metadata; the "
        "document is the same for every model.",
    ),
    Allowed(
        "not_a_server_error",
        r"/infer$|:predict$|^POST /invocations$",
        (504,),
        r"the request's time ran out",
        "How much time a request has is what its header says, and a few microseconds are too few.",
    ),
    Allowed(
        "positive_data_acceptance",
        r"/infer$|:predict$|^POST /invocations$",
        (408,),
        r"the request's time ran out before its body was there",
        "How much time a request has is what its header says, and a few microseconds are too few.",
    ),
)
CONTRACT = Contract(ALLOWED)

schema = schemathesis.openapi.from_dict(document("test"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server in a thread of its own: schemathesis is not asynchronous."""
    repository = tmp_path_factory.mktemp("models")
    for name in ("m", "came_and_went"):
        small_models.put(repository, name, "1", small_models.affine())
    up, stop = threading.Event(), asyncio.Event()
    held: list[Running] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        async with serving(str(repository), repository_control=True) as server:
            held.append(server)
            loops.append(asyncio.get_running_loop())
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert up.wait(90)
    yield held[0]
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(90)


def ask(case: schemathesis.Case, running: Running) -> None:
    """Ask for a model that is there; the one that is loaded and unloaded is nobody else's."""
    aim(case, "came_and_went" if "/repository/" in case.path else "m", "model")
    aim(case, "1", "version")
    CONTRACT.ask(case, running.url)


@schema.parametrize()
@examples(6)
def test_every_answer_is_what_the_document_says(case: schemathesis.Case, running: Running) -> None:
    ask(case, running)


@pytest.mark.conformance
@schema.parametrize()
@examples(400)
def test_every_answer_is_what_the_document_says_at_length(
    case: schemathesis.Case, running: Running
) -> None:
    ask(case, running)


async def test_the_document_is_served(tmp_path: Path) -> None:
    small_models.put(tmp_path, "m", "1", small_models.affine())
    async with serving(str(tmp_path), source_revision="abc") as server:
        answer = await server.client.get("/openapi.json")
        expected = document(version_of("slipway-inference", "abc"))
        assert answer.json() == expected


def test_the_exceptions_are_documented() -> None:
    assert not_documented("inference", ALLOWED) == []
