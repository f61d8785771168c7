"""What operators look at stays inside, however the path is written."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from tests.charts.rendering import ENVIRONMENTS
from tests.charts.scratch import GATEWAY

pytestmark = pytest.mark.e2e

# Metrics and probes, plain and disguised; a client library would tidy some of these up.
PATHS = (
    "/metrics",
    "/metrics?x=1",
    "/%6detrics",
    "/%6D%65trics",
    "//metrics",
    "/./metrics",
    "/v1/../metrics",
    "/v1/%2e%2e/metrics",
    "/v1/%2e%2e%2fmetrics",
    "/metrics/",
    "/metrics;x",
    "/\\metrics",
    "/livez",
    "/readyz",
    "/%6civez",
)


# As they are listed: the caller's policy refuses these, no matter what the service has.
LISTED = ("/metrics", "/metrics?x=1", "/livez", "/readyz")


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("path", PATHS)
def test_path_is_not_answered(environment: str, path: str) -> None:
    """Found: a host without a route, which answers everything by 404, passed."""
    host = f"{environment}.slipway.localhost"
    assert _status(_get("/openapi.json", host)) == 200, f"{host} leads to no proxy"
    answer = _get(path, host)
    status = _status(answer)
    assert status == 403 if path in LISTED else 400 <= status < 500, answer[:200]
    assert "process_cpu_seconds" not in answer


def _status(answer: str) -> int:
    return int(answer.split(" ", 2)[1])


def _get(path: str, host: str) -> str:
    """The raw answer to a raw request, its path exactly as written."""
    place = urlsplit(GATEWAY)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer.decode(errors="replace")
