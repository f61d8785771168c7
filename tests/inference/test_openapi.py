"""inference.openapi, and schemathesis throwing what it can think of at every path in it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from inference.openapi import document
from kit.version import version_of
from tests.inference import small_models
from tests.inference.conftest import Running, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
EXAMPLES = int(os.environ.get("SLIPWAY_FUZZ_EXAMPLES", "6"))
"""Requests per path; a night's run sets thousands."""

schema = schemathesis.openapi.from_dict(document("test"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server in a thread of its own: schemathesis is not asynchronous."""
    repository = tmp_path_factory.mktemp("models")
    small_models.put(repository, "m", "1", small_models.affine())
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


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_more_than_the_server_can_answer(
    case: schemathesis.Case, running: Running
) -> None:
    if "model" in case.path_parameters and len(str(case.path_parameters["model"])) % 2:
        case.path_parameters["model"] = "m"  # half of them reach a model that is there
    case.call_and_validate(base_url=running.url, checks=CHECKS)


async def test_the_document_is_served(tmp_path: Path) -> None:
    small_models.put(tmp_path, "m", "1", small_models.affine())
    async with serving(str(tmp_path), source_revision="abc") as server:
        answer = await server.client.get("/openapi.json")
        expected = document(version_of("slipway-inference", "abc"))
        assert answer.json() == expected
