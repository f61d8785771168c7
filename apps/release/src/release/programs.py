"""The programs `release` drives: in the cache where `cluster build` keeps them, or on PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from release.errors import NotFoundError


def find(name: str) -> str:
    """The path of a program: the one that this project builds, which is Argo CD's own version,
    before whatever the machine has.

    Raises NotFoundError naming it and how to get it.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("SLIPWAY_CACHE") or base / "slipway")
    found = shutil.which(name, path=cache / "bin") or shutil.which(name)
    if found is None:
        raise NotFoundError(
            f"{name} is not installed.", fix="run `make programs`, or put it on PATH"
        )
    return found
