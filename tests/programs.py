"""Where the tests find the programs they drive, and what happens without one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def cache_folder() -> Path:
    """Where `cluster build` keeps the programs it built."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slipway" / "bin"


def require(name: str) -> str:
    """The path of a program; without it the test is skipped by its name, in CI it fails."""
    found = shutil.which(name, path=f"{cache_folder()}:{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is not None:
        return found
    reason = f"{name} is not installed: run `make programs` (as root), or put it on PATH"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
