"""Debian's packages that benchmarks run, installed where they are missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster import preflight


def ensure(packages: Mapping[str, str]) -> None:
    """Have each program, by the package that brings it; SystemExit names them without root."""
    search = f"/usr/bin:/usr/sbin:/sbin:{os.environ['PATH']}"
    missing = [each for name, each in packages.items() if shutil.which(name, path=search) is None]
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0:
        raise SystemExit(f"this needs {names}: sudo apt-get install {names}")
    print(f"installing {names} …", flush=True)
    preflight.install_packages(missing, Path(tempfile.gettempdir()) / "slipway-bench-apt.log")
