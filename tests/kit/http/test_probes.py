"""The operators' paths answer for the process; everything else passes through."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from kit.http.probes import Probes
from kit.lifecycle.health import Health


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(f"inner {scope['path']}")(scope, receive, send)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def client(health: Health) -> httpx.AsyncClient:
    registry = CollectorRegistry()
    Counter("seen", "Things seen.", registry=registry).inc()
    app = Probes(inner, health, registry)
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_readiness_names_what_is_missing(client: httpx.AsyncClient, health: Health) -> None:
    health.wait_for("model", "digits is being fetched")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "waiting", "model": "digits is being fetched"}
    assert (await client.get("/livez")).status_code == 200, "waiting is no reason to restart"
    health.ready("model")
    assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_a_draining_pod_is_unready_and_alive(
    client: httpx.AsyncClient, health: Health
) -> None:
    health.draining = True
    assert (await client.get("/readyz")).json() == {"status": "draining"}
    assert (await client.get("/livez")).status_code == 200


async def test_a_failed_process_asks_to_be_restarted(
    client: httpx.AsyncClient, health: Health
) -> None:
    health.failed = "the session is gone"
    answer = await client.get("/livez")
    assert answer.status_code == 500
    assert answer.json()["reason"] == "the session is gone"


async def test_metrics_are_those_of_the_registry(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert "seen_total 1.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


async def test_other_paths_pass_and_other_methods_do_not(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livezz")).text == "inner /livezz"
    assert (await client.get("/%6Detrics")).text == "inner /metrics", "not by another spelling"
    refused = await client.post("/readyz")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET"
