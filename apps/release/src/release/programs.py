"""The programs `release` drives: on PATH, or in the cache where `cluster build` keeps them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from release.errors import NotFoundError


def find(name: str) -> str:
    """The path of a program.

    Raises NotFoundError naming it and how to get it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = shutil.which(name) or shutil.which(name, path=Path(base) / "slipway" / "bin")
    if found is None:
        raise NotFoundError(
            f"{name} is not installed.", fix="run `make programs`, or put it on PATH"
        )
    return found
