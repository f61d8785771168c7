"""The access log: one JSON line for each request, written in batches off the hot path."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import Any

import orjson

from proxy.telemetry.metrics import Counter

FLUSH_SECONDS = 0.1
MOST_LINES = 10_000


class AccessLog:
    """Collects lines and writes them a few times a second.

    A log that cannot be written must not hold up requests: beyond ``MOST_LINES`` waiting lines
    the newest are dropped and counted in ``dropped``.
    """

    def __init__(self, constant: dict[str, str], dropped: Counter, *, descriptor: int = 1) -> None:
        fixed = {key: value for key, value in constant.items() if value}
        fixed |= {"level": "info", "message": "request"}
        self._head = orjson.dumps(fixed)[:-1] + b","
        self._descriptor = descriptor
        self._lines: list[bytes] = []
        self._scheduled = False
        self._writing = False
        self._dropped = dropped

    def write(self, **fields: Any) -> None:
        """Log one request."""
        if len(self._lines) >= MOST_LINES:
            self._dropped.add()
            return
        fields["time"] = datetime.now(UTC)
        self._lines.append(self._head + orjson.dumps(fields)[1:])
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush_soon)

    def _flush_soon(self) -> None:
        self._scheduled = False
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().run_in_executor(None, self._flush_and_mark)

    def _flush_and_mark(self) -> None:
        try:
            self.flush()
        finally:
            self._writing = False

    def flush(self) -> None:
        """Write what is waiting; blocks while stdout does."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        data = memoryview(b"\n".join(lines) + b"\n")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._dropped.add(by=len(lines))
