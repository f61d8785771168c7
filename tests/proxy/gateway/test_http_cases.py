"""The shapes of HTTP requests that strangers send, against the proxy in front of a model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from tests.inference.http_cases import CORPUS, LIVE, PATH
from tests.proxy.conftest import Neighbour, Proxy, proxy_with

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
REFUSED = {501: b"CONNECT", 505: b"HTTP/"}
"""The only answers of the 500s that are right, with what is said of them."""


@pytest.fixture
async def proxy(model: Neighbour) -> AsyncIterator[Proxy]:
    async with proxy_with(backends={"affine": {"type": "http", "url": model.url}}) as found:
        yield found


async def answers_to(port: int, sent: bytes) -> bytes:
    """All that comes back when this is sent and the sending side closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("kind", list(CORPUS))
async def test_no_shape_of_request_is_a_fault_of_the_proxy(
    proxy: Proxy, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Found: GET http://host, which has no path, was a 500 with a traceback."""
    port = URL(proxy.url).port
    assert port is not None
    faults = []
    for case in CORPUS[kind]:
        if case.name.startswith("Expect") and case.sent.endswith(b"\r\n\r\n"):
            continue  # it waits to be told to go on
        sent = case.sent.replace(PATH, b"/v1/health").replace(b"/v2/health/live", b"/v1/health")
        said = await answers_to(port, sent)
        found = [int(status) for status in STATUS.findall(said)]
        if any(status >= 500 and REFUSED.get(status, b"\0") not in said for status in found):
            faults.append(f"{case.name}: {found}")
    assert not faults, "\n".join(faults)
    live = LIVE.replace(b"/v2/health/live", b"/livez")
    assert STATUS.findall(await answers_to(port, live)) == [b"200"]
