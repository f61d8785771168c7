"""A headless Chromium, driven over its own protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.programs import require

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-prefers-reduced-motion",
    "--remote-debugging-port=0",
)


class Tab:
    """One page: ``do`` runs JavaScript in it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol and its result."""
        number = next(self._numbers)
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(30):
            while True:
                found = json.loads(await self._socket.receive_str())
                if found.get("method") == "Runtime.exceptionThrown":
                    self.errors.append(json.dumps(found["params"]["exceptionDetails"]))
                if found.get("method") == "Log.entryAdded":
                    self.errors.append(json.dumps(found["params"]["entry"]))
                if found.get("id") == number:
                    assert "error" not in found, found
                    result: dict[str, Any] = found["result"]
                    return result

    async def do(self, script: str) -> Any:
        """The value of an expression, promises awaited."""
        found = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 20.0) -> Any:
        """The first true value of an expression."""
        async with asyncio.timeout(seconds):
            while not (value := await self.do(script)):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        return value

    async def screenshot(self, to: Path) -> None:
        """Keep what the page looks like."""
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(_write, to, base64.b64decode(found["data"]))


def artifacts(fallback: Path) -> Path:
    """Where screenshots are kept: ``TEST_ARTIFACTS``, or the test's own folder."""
    return Path(os.environ.get("TEST_ARTIFACTS") or fallback)


@asynccontextmanager
async def browsing(folder: Path, url: str, *, width: int, height: int) -> AsyncIterator[Tab]:
    """A page of a fresh browser whose profile lies in ``folder``."""
    process = await asyncio.create_subprocess_exec(
        require("chromium"),
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await asyncio.to_thread(_port, folder / "profile" / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            address = pages[0]["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                tab = Tab(socket)
                await tab.call("Runtime.enable")
                await tab.call("Log.enable")
                await tab.call("Page.enable")
                await tab.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
                )  # fmt: skip
                await tab.call("Page.navigate", url=url)
                await tab.until(
                    "document.readyState === 'complete' && location.protocol === 'http:'"
                )
                yield tab
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _port(file: Path) -> str:
    """The port the browser chose, once it has written it down."""
    until = time.monotonic() + 60
    while not file.exists() or "\n" not in file.read_text():
        assert time.monotonic() < until, "the browser did not start"
        time.sleep(0.05)
    return file.read_text().split("\n")[0]


def _write(to: Path, data: bytes) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(data)
