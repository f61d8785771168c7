"""The load generator of the overload benchmark: a C program, built by gcc when it has changed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "generators" / "open_loop.c"


@dataclass(frozen=True, slots=True)
class Load:
    """What is offered: ``connections``, and ``share`` of the peak; 0 is the closed loop.

    ``after`` is the share offered until the moment at which this load begins.
    """

    connections: int
    share: float = 0.0
    after: float = 0.0

    @property
    def name(self) -> str:
        """As the tables have it."""
        if not self.share:
            return f"closed {self.connections}"
        return f"open {self.share:.0%}" + (f", after {self.after:.0%}" if self.after else "")


LOADS = (
    *(Load(count) for count in (128, 600, 1500)),
    *(Load(1500, share) for share in (1.0, 1.2, 1.5, 2.0)),
    Load(1500, 0.5, after=2.0),
)


def build() -> Path:
    """The program's path; CalledProcessError where gcc fails."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway" / "bench"
    base.mkdir(parents=True, exist_ok=True)
    program = base / f"open_loop-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        made = program.with_suffix(".new")
        subprocess.run(["gcc", "-O2", "-Wall", "-o", made, SOURCE], check=True)
        made.rename(program)
    return program


def attack(
    url: str, path: str, body: Path, load: Load, *,
    cpu: int, seconds: float, skip: float, peak: float, header: str = "",
) -> dict[str, float]:  # fmt: skip
    """One window of ``load``; its first ``skip`` seconds do not count. Times in milliseconds."""
    rate = load.share * peak
    words = ["taskset", "-c", str(cpu), str(build()), url.rsplit(":", 1)[1], path, str(body)]
    words += [str(seconds), str(skip), str(load.connections), f"{rate:.1f}"]
    done = subprocess.run(
        [*words, *([header] if header else [])], check=True, capture_output=True, text=True
    )
    row: dict[str, float] = json.loads(done.stdout)
    return row | {"offered_per_second": rate}
