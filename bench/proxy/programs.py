"""The programs of other people that the benchmark runs, fetched where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = {"nginx": "nginx-light", "wrk": "wrk", "redis-server": "redis-server"}
LITELLM = "litellm[proxy]==1.106.2"


def cache_folder() -> Path:
    """Where Slipway keeps what it built and installed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SLIPWAY_CACHE") or Path(base) / "slipway")


def vegeta() -> str:
    """Its path; SystemExit says how to get it."""
    found = shutil.which("vegeta", path=f"{cache_folder() / 'bin'}:{os.environ['PATH']}")
    if found is None:
        raise SystemExit("vegeta is not installed: run `make programs`, or put it on PATH")
    return found


def litellm() -> str | None:
    """LiteLLM in an environment of its own; None, with the reason printed, where it won't."""
    folder = cache_folder() / "bench" / "litellm"
    program, pinned = folder / "bin" / "litellm", folder / ".ok"
    if pinned.exists() and pinned.read_text() == LITELLM:
        return str(program)
    print(f"installing {LITELLM} …", flush=True)
    python = str(folder / "bin" / "python")
    for command in (
        ["uv", "venv", "--quiet", "--clear", "--python", "3.11", str(folder)],
        ["uv", "pip", "install", "--quiet", "--python", python, LITELLM],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"litellm: not installed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            return None
    pinned.write_text(LITELLM)
    return str(program)


def own(name: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).with_name(name))
