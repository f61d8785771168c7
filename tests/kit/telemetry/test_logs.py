"""Logs are JSON lines that say which request and trace they belong to."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging
from kit.telemetry import logs, tracing
logs.configure(level="info", service="example", pod="p-1", release="")
log = logs.get("part")
log.debug("not shown")
tracing.current.set(tracing.TraceContext("a" * 32, "b" * 16, True))
tracing.request_id.set("r-1")
log.info("이미지", model="digits")
logging.getLogger("library").warning("from %s", "elsewhere")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
"""


def test_every_line_is_one_json_object_with_its_request() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["message"] for line in lines] == ["이미지", "from elsewhere", "broken"]
    for line in lines:
        assert line["service"] == "example"
        assert line["pod"] == "p-1"
        assert "release" not in line
        assert line["trace_id"] == "a" * 32
        assert line["request_id"] == "r-1"
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert "ZeroDivisionError" in lines[2]["exception"]
