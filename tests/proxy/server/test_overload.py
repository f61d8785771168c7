"""Overload: refusals before anything is parsed, and a limit that follows the loop's turns."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from aiohttp import web

from kit.http import refusals
from kit.http.admission import AIM, WINDOW
from proxy.server.overload import FLOOR, Overload
from tests.proxy.conftest import Neighbour, Proxy, eventually, proxy_with

INFER = b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n"


def made(**more: Any) -> Overload:
    return Overload(target=0.02, ceiling=4096, report=lambda kind, count: None, **more)


class Loop:
    """Runs what it is given when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []
        self.reported: list[Any] = []

    def call_soon(self, callback: Any, *arguments: Any) -> None:
        self.calls.append((callback, arguments))

    def call_later(self, delay: float, callback: Any, *arguments: Any) -> None:
        if delay < 0.5:
            self.call_soon(callback, *arguments)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for callback, arguments in calls:
            callback(*arguments)


class Measured:
    """A proxy whose turns take as long as the test says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.limit = made(clock=lambda: self.now)

    def settle(self, turn_seconds: float, open_requests: int) -> int:
        """The limit after two seconds of such turns."""
        loop: Any = Loop()
        self.limit._probing = False
        until = self.now + 30 * WINDOW
        while self.now < until:
            self.limit.full(min(open_requests, self.limit.admission.limit), b"", loop)
            self.now += turn_seconds
            loop.turn()
        return self.limit.admission.limit


def test_requests_that_wait_for_slow_backends_are_no_overload() -> None:
    """Found: the count that a fast backend wants would refuse who waits for a slow one."""
    assert Measured().settle(0.001, 3000) >= 3000


def test_long_turns_bring_the_limit_down_and_short_ones_up_again() -> None:
    measured = Measured()
    measured.settle(0.001, 3000)
    assert measured.settle(0.1, 3000) == FLOOR
    assert measured.settle(0.02 * AIM, 3000) <= FLOOR + 1
    assert measured.settle(0.001, 3000) >= 3000


def test_probes_are_never_refused() -> None:
    limit, loop = made(), Loop()
    stuck: Any = loop
    assert limit.full(FLOOR, INFER, stuck)
    assert not limit.full(FLOOR - 1, INFER, stuck)
    for path in (b"/livez", b"/readyz", b"/metrics"):
        assert not limit.full(FLOOR, b"GET %b HTTP/1.1\r\n\r\n" % path, stuck)


@pytest.mark.parametrize(
    ("head", "has_error"),
    [(INFER, True), (b"POST /v1/predict/digits HTTP/1.1\r\nhost: a\r\n", False)],
)
@pytest.mark.parametrize("identity", ["mine", "", "not valid ünd"])
def test_a_refusal_is_a_whole_problem(head: bytes, has_error: bool, identity: str) -> None:
    loop: Any = Loop()
    line = b"X-Request-Id: %b\r\n" % identity.encode() if identity else b""
    answer = made().refusal(head + line + b"\r\n{}", loop)
    start, _, body = answer.partition(b"\r\n\r\n")
    lines = start.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    problem = json.loads(body)
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    assert fields["content-type"] == "application/problem+json"
    assert fields["retry-after"] == "1"
    assert int(fields["content-length"]) == len(body)
    assert problem["type"] == "urn:slipway:problem:overloaded"
    assert problem["request_id"] == fields["x-request-id"]
    assert (problem["request_id"] == identity) == (identity == "mine")
    assert ("error" in problem) == has_error


async def test_past_the_limit_requests_are_refused_before_their_credentials_are_read(
    model: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: a refusal cost more than an answer, after parsing, credentials and body."""
    monkeypatch.setattr(refusals, "LOG_EVERY", 0.01)
    held = asyncio.Event()

    async def wait(_: web.Request) -> web.StreamResponse:
        await held.wait()
        return web.json_response({"outputs": []})

    model.on("/v2/models/digits/infer", wait)
    backends = {"digits": {"type": "http", "url": model.url}}
    async with proxy_with(backends=backends) as proxy:
        proxy.app.app.overload.admission.bound(2, 2)
        path = "/v2/models/digits/infer"
        ahead = [asyncio.create_task(ask(proxy, path)) for _ in range(2)]

        async def both() -> bool:
            return sum(seen.path == path for seen in model.seen) == 2

        await eventually(both)
        # the header is one that an open request would be refused for, by 401
        status, body = await ask(proxy, path, "authorization: Bearer nobody")
        assert (status, json.loads(body)["type"]) == (429, "urn:slipway:problem:overloaded")
        assert (await ask(proxy, "/readyz", method="GET"))[0] == 200
        held.set()
        assert [status for status, _ in await asyncio.gather(*ahead)] == [200, 200]

        async def counted() -> bool:
            line = 'slipway_proxy_failures_total{http_route="/v2/models/{model}/infer",'
            return await proxy.metric(line + 'type="overloaded"}') == 1

        await eventually(counted)
        assert (await ask(proxy, path))[0] == 200


async def ask(proxy: Proxy, path: str, *headers: str, method: str = "POST") -> tuple[int, bytes]:
    """One request in one write, on a connection of its own."""
    port = int(proxy.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", "host: a", *headers, "content-length: 2"]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n{}")
    head = await reader.readuntil(b"\r\n\r\n")
    match = re.search(rb"content-length: (\d+)", head.lower())
    assert match is not None
    body = await reader.readexactly(int(match[1]))
    writer.close()
    return int(head.split()[1]), body
