"""Ports for programs that cannot choose one themselves.

A port of the range from which the kernel serves outgoing connections and port 0 may be taken again
before the program binds it. These lie outside of that range, and each worker of pytest-xdist has
some of its own.
"""

from __future__ import annotations

import os
import random
import re
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST, _WORKERS = 10_000, 16
_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, never the same twice."""
    last = int(_RANGE.read_text().split()[0]) - 1 if _RANGE.exists() else 32_767
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _WORKERS
    own = [port for port in range(_FIRST, max(last, _FIRST + 1000)) if port % _WORKERS == worker]
    for port in random.sample(own, len(own)):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError("every port is taken")
