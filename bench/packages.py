"""Debian's packages that benchmarks run, installed where they are missing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster import preflight


def ensure(packages: Mapping[str, str]) -> None:
    """Have each program, by the package that brings it; SystemExit names them without root."""
    missing = preflight.missing(packages)
    if not missing:
        return
    names = " ".join(sorted(missing))
    if os.geteuid() != 0:
        raise SystemExit(f"this needs {names}: sudo apt-get install {names}")
    print(f"installing {names} …", flush=True)
    preflight.install_packages(missing, Path(tempfile.gettempdir()) / "slipway-bench-apt.log")
