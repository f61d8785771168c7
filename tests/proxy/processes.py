"""Services as they run in a pod: processes with an environment, signals and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.ports import free_port


@dataclass
class Process:
    """A running service."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, seconds: float = 30.0) -> int:
        return await asyncio.to_thread(self.process.wait, seconds)


def environment(prefix: str, settings: dict[str, Any]) -> dict[str, str]:
    """Settings as the chart writes them."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(prefix)}
    for name, value in settings.items():
        key = name if name.isupper() else f"{prefix}{name.upper()}"
        given[key] = value if isinstance(value, str) else json.dumps(value)
    return given


@asynccontextmanager
async def running(
    folder: Path, program: str, *words: str, **settings: Any
) -> AsyncIterator[Process]:
    """A service's own program, ready; killed at the end if it still runs."""
    for last in (False, False, True):
        port = free_port()
        prefix = f"{program.upper()}_"
        log = folder / f"{program}-{port}.log"
        given = environment(prefix, {"port": port, "host": "127.0.0.1"} | settings)
        process = await asyncio.to_thread(_start, [program, *words], given, log)
        found = Process(f"http://127.0.0.1:{port}", process, log)
        try:
            await _ready(found)
            break
        except AssertionError:
            process.kill()
            await asyncio.to_thread(process.wait)
            # Somebody else on this machine took the port between our look and our bind.
            if last or "address already in use" not in log.read_text():
                raise
    try:
        yield found
    finally:
        if process.poll() is None:
            process.kill()
        await asyncio.to_thread(process.wait)


async def _ready(found: Process, seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    path = "/v2/health/ready" if "inference" in found.log.name else "/readyz"
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(found.url + path) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            said = found.log.read_text()[-2000:]
            assert found.process.poll() is None, said
            assert time.monotonic() < until, said
            await asyncio.sleep(0.05)


def _start(words: list[str], given: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name(words[0])
    with log.open("wb") as out:
        return subprocess.Popen(
            [str(program), *words[1:]], env=given, stdout=out, stderr=subprocess.STDOUT
        )
