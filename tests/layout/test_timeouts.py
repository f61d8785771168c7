"""Idle connections end from the caller's side on: client < gateway < sidecar < service."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kit.settings import ServiceSettings
from proxy.settings import ProxySettings

ROUTING = Path(__file__).resolve().parents[2] / "charts" / "routing"


def test_who_sends_requests_gives_a_connection_up_before_who_answers_them() -> None:
    """Found: the services closed after 75 s what Envoy kept for an hour: 503 for 18 of 80."""
    rule = (ROUTING / "templates" / "destinationrule.yaml").read_text(encoding="utf-8")
    default = re.search(r'idleTimeout: \{\{ \$breaker\.idleTimeout \| default "(\d+)s" \}\}', rule)
    assert default is not None
    envoy = float(default[1])
    service = ServiceSettings().keep_alive_seconds
    assert ProxySettings().pool_idle_seconds + 5 <= envoy, "the proxy is a caller of the models"
    assert envoy + 5 <= service
    schema: dict[str, Any] = json.loads((ROUTING / "values.schema.json").read_text("utf-8"))
    breaker = json.dumps(schema)
    assert f"{envoy:g}s unless told" in breaker and f"({service} s," in breaker
