"""The API is what its OpenAPI document says: schemathesis asks everything it allows, and more."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from kit.health import Health
from proxy.api import create_api
from proxy.services import Services
from proxy.settings import ProxySettings
from tests.proxy.conftest import (
    _answer_infer,
    _answer_metadata,
    _answer_ready,
    neighbour,
    proxy_with,
)

pytestmark = pytest.mark.timeout(180)
EXAMPLES = int(os.environ.get("PROXY_TEST_EXAMPLES", "25"))


@pytest.fixture(scope="module")
def base_url(redis_url: str) -> Iterator[str]:
    """A proxy in a thread of its own: schemathesis asks synchronously."""
    ready, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with neighbour() as model:
            model.on("/v2/models/digits", _answer_metadata)
            model.on("/v2/models/digits/ready", _answer_ready)
            model.on("/v2/models/digits/infer", _answer_infer)
            given: dict[str, Any] = {
                "backends": {"digits": {"type": "http", "url": model.url}},
                "ensembles": {"digits": {"members": [{"model": "digits"}]}},
                "pipelines": {"digits": {"steps": [{"model": "digits"}]}},
                "redis_url": redis_url,
                "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
                "timeout_seconds": 5.0,
            }
            async with proxy_with(**given) as proxy:
                found.append(proxy.url)
                ready.set()
                await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    yield found[0]
    stop.set()
    thread.join()


# Jobs' events are streams that last as long as the job does.
SCHEMA = schemathesis.openapi.from_dict(
    create_api(Services(ProxySettings(), Health())).openapi()
).exclude(path_regex="/events$")
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_documented_and_none_is_a_500(base_url: str, label: str) -> None:
    @given(OPERATIONS[label].as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        names = case.path_parameters or {}
        for name in names:
            if name in ("model", "name") and len(str(names[name])) % 2:
                names[name] = "digits"  # else hardly a case would get past the path
        case.call_and_validate(
            base_url=base_url,
            timeout=20,
            checks=(not_a_server_error, content_type_conformance, response_schema_conformance),
        )

    ask()


def test_the_operations_are_all_there() -> None:
    assert len(OPERATIONS) == 10
